//! Against DNS rebinding: a web page whose name is made to lead to this machine would be allowed by browsers to ask a server that
//! listens on loopback, as it seems to be the page's own. Such a request names the page's host.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Refused;

/// Refuses requests to names that are not this machine's. Only where the server has no key (nobody who lacks it learns anything)
/// and listens on loopback (elsewhere it does not know its names).
pub(crate) async fn check(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).map(|host| host.as_bytes());
    if host.is_none_or(is_local) {
        return next.run(request).await;
    }
    let shown: String = String::from_utf8_lossy(host.unwrap_or_default()).chars().take(100).collect();
    let message = format!(
        "the Host header is '{shown}': on a loopback address and without a key, this server answers to localhost and to addresses only, \
         so that no web page reaches it by a name of its own; let your proxy send Host: localhost, or set an API key"
    );
    Refused::new(StatusCode::FORBIDDEN, message).code("host_not_allowed").into_response()
}

/// An address is no name that could be made to lead here.
fn is_local(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    let name = authority.host().trim_end_matches('.').to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::is_local;

    #[test]
    fn names_of_this_machine() {
        for host in [
            "localhost",
            "LOCALHOST:8000",
            "localhost.",
            "sol.localhost:1",
            "127.0.0.1:8000",
            "[::1]:8000",
            "192.168.0.7",
            "0.0.0.0:1",
        ] {
            assert!(is_local(host.as_bytes()), "{host}");
        }
        for host in [
            "evil.example:8000",
            "localhost.evil.example",
            "127.0.0.1.nip.io",
            "notlocalhost",
            "a b",
            "127.0.0.1@evil.example",
            "",
        ] {
            assert!(!is_local(host.as_bytes()), "{host}");
        }
    }
}
