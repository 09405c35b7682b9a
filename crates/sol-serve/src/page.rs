//! The chat page at `/`, whose files are part of the binary: `web/dist`, which `npm run build` makes of `web/src`.

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use crate::error::Result;
use crate::info;

#[derive(RustEmbed)]
#[folder = "web/dist"]
struct Files;

/// Where the files beside the page are; their names have a digest of what is in them.
const ASSETS: &str = "/assets/";

/// The page may load and ask what is on its own server, and nothing else; no string ever becomes markup or a program.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// Whether a path is part of the page. It tells nothing, so that it can ask for a key.
pub(crate) fn is_page(path: &str) -> bool {
    path == "/" || path.starts_with(ASSETS)
}

/// `GET /`: the page.
pub(crate) async fn index(method: Method, uri: Uri, headers: HeaderMap) -> Result<Response> {
    match Files::get("index.html") {
        Some(file) => Ok(answer("index.html", file, "no-cache", &headers)),
        None => Err(info::nowhere(method, uri).await),
    }
}

/// `GET /assets/{name}`: what it loads. A path is compared with the names as it stands; it never reaches a file system.
pub(crate) async fn asset(method: Method, uri: Uri, headers: HeaderMap) -> Result<Response> {
    let name = uri.path().trim_start_matches('/');
    match Files::get(name) {
        Some(file) => Ok(answer(name, file, "public, max-age=31536000, immutable", &headers)),
        None => Err(info::nowhere(method, uri).await),
    }
}

/// A file, unless the client has it.
fn answer(name: &str, file: EmbeddedFile, cache: &'static str, asked: &HeaderMap) -> Response {
    let digest: String = file.metadata.sha256_hash()[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    let tag = format!("\"{digest}\"");
    let known =
        asked.get_all(header::IF_NONE_MATCH).iter().filter_map(|tags| tags.to_str().ok()).flat_map(|tags| tags.split(','));
    let known = known.map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*");
    let body = if known { StatusCode::NOT_MODIFIED.into_response() } else { file.data.into_response() };
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "application/octet-stream",
    };
    let fixed = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, cache),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    let mut response = body;
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (header::ETAG, tag)));
    response
}
