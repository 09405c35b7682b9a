//! Talking to the hub: the listing of a repository, the facts about a file, its bytes.
//!
//! Why a small client of our own and not the `hf-hub` crate: that one (1.0) is built on tokio, reqwest
//! and xet, some 300 entries of `cargo tree` (500 with its default features) against 30 for `ureq`, for
//! two requests that are plain HTTP; and neither its time limits nor its error texts are what a person at a terminal needs.
//! Repositories stored as Xet are served over plain HTTP by the hub's own bridge.
//!
//! Redirects are followed by hand, because the token must not leave the hub: contents come from other
//! hosts. This module knows nothing of the cache.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body, Timeout};

use crate::cache::is_commit;
use crate::config::{HubConfig, Timeouts};
use crate::error::{Error, Result};
use crate::reference::{Kind, check_file_name};

/// Requests are repeated this often after a failure that may pass.
const RETRIES: u32 = 3;
const MAX_REDIRECTS: usize = 10;
/// The listing of a repository with a hundred thousand files is below this.
const MAX_LISTING_BYTES: u64 = 32 << 20;

/// What a repository has at a commit.
#[derive(Clone)]
pub(crate) struct Listing {
    pub(crate) commit: String,
    pub(crate) files: Vec<String>,
}

/// What the hub says of a file without sending it.
#[derive(Debug, Clone)]
pub(crate) struct FileFacts {
    /// Name of the blob.
    pub(crate) etag: String,
    pub(crate) size: Option<u64>,
}

impl FileFacts {
    /// Large files are named by their SHA-256; small ones by a git hash, which is shorter.
    pub(crate) fn sha256(&self) -> Option<&str> {
        (self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(&self.etag)
    }
}

/// The bytes of a file from some offset on.
pub(crate) struct Content {
    /// Where they begin: as asked, or 0 from a server that knows no ranges.
    pub(crate) offset: u64,
    pub(crate) reader: Box<dyn Read>,
}

/// One repository at one revision, as it is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) kind: Kind,
    pub(crate) repo: &'a str,
    pub(crate) revision: &'a str,
}

pub(crate) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Option<Origin>,
    token: Option<String>,
    timeouts: Timeouts,
}

/// Scheme, host and port: what a token is bound to.
#[derive(Debug, PartialEq, Eq)]
struct Origin(String, String, u16);

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some(Self(scheme, uri.host()?.to_ascii_lowercase(), port))
    }

    fn is_this_machine(&self) -> bool {
        matches!(self.1.as_str(), "localhost" | "127.0.0.1" | "[::1]")
    }
}

impl Client {
    pub(crate) fn new(config: &HubConfig) -> Self {
        let origin = config.endpoint.parse().ok().as_ref().and_then(Origin::of);
        let timeouts = config.timeouts.clone();
        let mut builder = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("solarium/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(timeouts.connect))
            .timeout_connect(Some(timeouts.connect))
            .timeout_recv_response(Some(timeouts.response))
            .timeout_per_read(Some(timeouts.stall));
        if !config.use_proxy || origin.as_ref().is_some_and(Origin::is_this_machine) {
            builder = builder.proxy(None);
        }
        if origin.as_ref().is_none_or(|origin| origin.0 == "https") {
            builder = builder.tls_config(TlsConfig::builder().root_certs(root_certs()).build());
        }
        Self { agent: builder.build().into(), endpoint: config.endpoint.clone(), origin, token: config.token.clone(), timeouts }
    }

    /// The files of a repository and the commit that the revision is at.
    pub(crate) fn listing(&self, place: Place<'_>) -> Result<Listing> {
        #[derive(Deserialize)]
        struct Info {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }

        let revision = encode(place.revision, false);
        let url = format!("{}/api/{}/{}/revision/{revision}", self.endpoint, place.kind.plural(), place.repo);
        let (answer, url) = self.retrying(|| self.send("GET", &url, None, place, None))?;
        let not_a_hub = |reason: String| Error::NotAHub { url: url.clone(), reason };
        let text = answer
            .into_body()
            .into_with_config()
            .limit(MAX_LISTING_BYTES)
            .read_to_vec()
            .map_err(|error| self.transport_error(&url, &error))?;
        let info: Info = serde_json::from_slice(&text).map_err(|error| not_a_hub(error.to_string()))?;
        if !is_commit(&info.sha) {
            return Err(not_a_hub(format!("'{}' is no commit", info.sha.escape_debug())));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        for file in &files {
            check_file_name(file).map_err(|reason| not_a_hub(format!("a listed file name {reason}")))?;
        }
        Ok(Listing { commit: info.sha, files })
    }

    /// Size and blob name of a file.
    pub(crate) fn facts(&self, place: Place<'_>, file: &str) -> Result<FileFacts> {
        self.retrying(|| self.facts_once(place, file))
    }

    /// The same without repetitions.
    pub(crate) fn facts_once(&self, place: Place<'_>, file: &str) -> Result<FileFacts> {
        let mut url = self.file_url(place, file);
        let (mut etag, mut size) = (None, None);
        for _ in 0..MAX_REDIRECTS {
            let answer = self.exchange("HEAD", &url, None)?;
            let headers = answer.headers();
            let status = answer.status();
            if !status.is_success() && !status.is_redirection() {
                return Err(self.refusal(&url, &answer, place, Some(file)));
            }
            etag = header(headers, "x-linked-etag").or(etag);
            size = header(headers, "x-linked-size").and_then(|size| size.parse().ok()).or(size);
            let next = if status.is_redirection() { self.redirect(&url, headers)? } else { None };
            match next {
                // The hub has said it all: the host of the contents need not be asked now.
                Some(_) if etag.is_some() && size.is_some() => break,
                Some(next) => url = next,
                None => {
                    etag = etag.or_else(|| header(headers, "etag"));
                    size = size.or_else(|| header(headers, "content-length").and_then(|size| size.parse().ok()));
                    break;
                }
            }
        }
        let not_a_hub = |reason: String| Error::NotAHub { url: self.file_url(place, file), reason };
        let etag = etag.ok_or_else(|| not_a_hub("it gives no ETag".to_owned()))?;
        let plain = etag.strip_prefix("W/").unwrap_or(&etag).trim_matches('"');
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if !(1..=128).contains(&plain.len()) || !plain.bytes().all(safe) || plain.starts_with('.') {
            return Err(not_a_hub(format!("the ETag '{}' cannot name a file", etag.escape_debug())));
        }
        Ok(FileFacts { etag: plain.to_owned(), size })
    }

    /// The file from `offset` on; one try.
    pub(crate) fn content(&self, place: Place<'_>, file: &str, offset: u64) -> Result<Content> {
        let url = self.file_url(place, file);
        let range = (offset > 0).then(|| format!("bytes={offset}-"));
        let (answer, url) = self.send("GET", &url, range.as_deref(), place, Some(file))?;
        let offset = if answer.status().as_u16() == 206 {
            let begins: Option<u64> = header(answer.headers(), "content-range")
                .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok());
            match begins {
                Some(begins) if begins == offset => offset,
                _ => {
                    return Err(Error::NotAHub { url, reason: "it sent another range than asked for".to_owned() });
                }
            }
        } else {
            0
        };
        Ok(Content { offset, reader: Box::new(answer.into_body().into_reader()) })
    }

    fn file_url(&self, place: Place<'_>, file: &str) -> String {
        let revision = encode(place.revision, false);
        format!("{}/resolve/{revision}/{}", self.page(place), encode(file, true))
    }

    /// Where a person looks at a repository.
    fn page(&self, place: Place<'_>) -> String {
        match place.kind {
            Kind::Model => format!("{}/{}", self.endpoint, place.repo),
            Kind::Dataset => format!("{}/datasets/{}", self.endpoint, place.repo),
        }
    }

    /// Sends a request, follows redirects, and makes an error of a refusal. Also gives the last address.
    fn send(
        &self,
        method: &str,
        url: &str,
        range: Option<&str>,
        place: Place<'_>,
        file: Option<&str>,
    ) -> Result<(Response<Body>, String)> {
        let mut url = url.to_owned();
        for _ in 0..MAX_REDIRECTS {
            let answer = self.exchange(method, &url, range)?;
            let status = answer.status();
            if status.is_redirection()
                && let Some(next) = self.redirect(&url, answer.headers())?
            {
                url = next;
            } else if status.is_success() {
                return Ok((answer, url));
            } else {
                return Err(self.refusal(&url, &answer, place, file));
            }
        }
        Err(Error::NotAHub { url, reason: format!("more than {MAX_REDIRECTS} redirects") })
    }

    /// One request and its answer. The token goes to the hub only.
    fn exchange(&self, method: &str, url: &str, range: Option<&str>) -> Result<Response<Body>> {
        // A compressed answer would make its length and the ranges meaningless.
        let mut request = ureq::http::Request::builder().method(method).uri(url).header("accept-encoding", "identity");
        if let Some(range) = range {
            request = request.header("range", range);
        }
        if let Some(token) = self.token.as_ref().filter(|_| self.is_endpoint(url)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(()).map_err(|error| Error::NotAHub { url: url.to_owned(), reason: error.to_string() })?;
        tracing::debug!(method, url, range, "request");
        self.agent.run(request).map_err(|error| self.transport_error(url, &error))
    }

    fn is_endpoint(&self, url: &str) -> bool {
        let origin = url.parse().ok().as_ref().and_then(Origin::of);
        origin.is_some() && origin == self.origin
    }

    /// The address that an answer redirects to; `None` when it names none.
    fn redirect(&self, from: &str, headers: &HeaderMap) -> Result<Option<String>> {
        let Some(location) = header(headers, "location") else { return Ok(None) };
        let bad = |reason: &str| Error::NotAHub { url: from.to_owned(), reason: reason.to_owned() };
        let next = if location.starts_with("http://") || location.starts_with("https://") {
            location
        } else {
            let base: Uri = from.parse().map_err(|_| bad("it has a bad address"))?;
            let authority = base.authority().map(ToString::to_string).unwrap_or_default();
            let scheme = base.scheme_str().unwrap_or("https");
            match location.strip_prefix("//") {
                Some(rest) => format!("{scheme}://{rest}"),
                None if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
                None => return Err(bad("it redirects to an address without a host")),
            }
        };
        if from.starts_with("https://") && next.starts_with("http://") {
            return Err(bad("it redirects from https to http"));
        }
        Ok(Some(next))
    }

    /// What an answer of 4xx or 5xx means.
    fn refusal(&self, url: &str, answer: &Response<Body>, place: Place<'_>, file: Option<&str>) -> Error {
        let headers = answer.headers();
        let status = answer.status().as_u16();
        let code = header(headers, "x-error-code").unwrap_or_default();
        let detail = match header(headers, "x-error-message") {
            Some(message) => format!(": {}", message.chars().filter(|c| !c.is_control()).take(200).collect::<String>()),
            None => String::new(),
        };
        let repo = place.repo.to_owned();
        let page = self.page(place);
        // Another host knows nothing of repositories: its refusals are its own.
        let of_hub = self.is_endpoint(url);
        match (status, code.as_str()) {
            (429, _) => Error::Busy { url: without_query(url), after: retry_after(headers) },
            (401 | 403 | 404, "RevisionNotFound") => Error::RevisionNotFound { repo, revision: place.revision.to_owned() },
            (401 | 403, "GatedRepo") => Error::Gated { repo, page, detail },
            (401, _) if of_hub => Error::NoAccess { repo, page, detail },
            (403, _) if of_hub => Error::Gated { repo, page, detail },
            (404, "RepoNotFound") => Error::RepoNotFound { repo, page },
            (404, _) if of_hub => match file {
                Some(file) => Error::FileNotFound { repo, file: file.to_owned(), available: format!(" at {}", place.revision) },
                None if place.revision != "main" => Error::RevisionNotFound { repo, revision: place.revision.to_owned() },
                None => Error::RepoNotFound { repo, page },
            },
            _ => Error::Status { url: without_query(url), status, detail },
        }
    }

    /// Repeats what may pass: a busy or failing hub, a connection that broke. Not a hub that is not
    /// there: whoever has no network should hear of it at once.
    pub(crate) fn retrying<T>(&self, mut request: impl FnMut() -> Result<T>) -> Result<T> {
        let mut retries = 0;
        loop {
            let error = match request() {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            match self.pause(&error, retries) {
                Some(pause) if retries < RETRIES => {
                    tracing::debug!(%error, ?pause, "trying again");
                    std::thread::sleep(pause);
                    retries += 1;
                }
                _ => return Err(error),
            }
        }
    }

    /// How long to wait before the next try; `None` where another try cannot help.
    pub(crate) fn pause(&self, error: &Error, retries: u32) -> Option<Duration> {
        let backoff = self.timeouts.backoff * 2_u32.pow(retries.min(6));
        match error {
            Error::Busy { after, .. } => {
                let pause = after.unwrap_or(backoff);
                (pause <= self.timeouts.longest_pause).then_some(pause)
            }
            Error::Interrupted { .. } => Some(backoff),
            Error::Status { status, .. } if *status >= 500 => Some(backoff),
            _ => None,
        }
    }

    fn transport_error(&self, url: &str, error: &ureq::Error) -> Error {
        let url = without_query(url);
        let host = url.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
        let unreachable = |reason: String| {
            // Contents come from other hosts, and then it is that host which is missing.
            let endpoint = if self.is_endpoint(&url) { self.endpoint.clone() } else { host.clone() };
            Error::Unreachable { endpoint, reason }
        };
        let seconds = |limit: Duration| format!("{:.0} s", limit.as_secs_f64().max(1.0));
        match error {
            ureq::Error::HostNotFound => unreachable(format!("the name {host} cannot be resolved")),
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                unreachable(format!("no connection within {}", seconds(self.timeouts.connect)))
            }
            ureq::Error::Timeout(_) => {
                unreachable(format!("connected, but no answer within {}", seconds(self.timeouts.response)))
            }
            ureq::Error::Io(io) => {
                use std::io::ErrorKind as Kind;
                match io.kind() {
                    Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe | Kind::UnexpectedEof => {
                        Error::Interrupted { url, reason: io.to_string() }
                    }
                    // The standard library has no kind of its own for it.
                    _ if io.to_string().contains("lookup address") => unreachable(format!("the name {host} cannot be resolved")),
                    Kind::ConnectionRefused => unreachable("the connection was refused".to_owned()),
                    _ => unreachable(io.to_string()),
                }
            }
            ureq::Error::ConnectionFailed => unreachable("no connection".to_owned()),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
                unreachable(format!("no secure connection: {error} (SSL_CERT_FILE names other certificates)"))
            }
            ureq::Error::InvalidProxyUrl | ureq::Error::ConnectProxyFailed(_) => {
                unreachable(format!("the proxy (HTTPS_PROXY): {error}"))
            }
            other => Error::NotAHub { url, reason: other.to_string() },
        }
    }
}

/// The machine's certificates, which a company's proxy may need; Mozilla's on one that has none.
pub fn root_certs() -> RootCerts {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::debug!(%error, "reading the machine's certificates");
    }
    let certs: Vec<Certificate<'static>> =
        native.certs.iter().map(|cert| Certificate::from_der(cert.as_ref()).to_owned()).collect();
    if certs.is_empty() { RootCerts::WebPki } else { RootCerts::Specific(Arc::new(certs)) }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    header(headers, "retry-after")?.parse().ok().map(Duration::from_secs)
}

/// Addresses of contents are signed: the signature is noise in a message, and a secret.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or(url).to_owned()
}

/// Percent-encodes what is not plain; the slash too in a revision, which is one part of an address.
fn encode(text: &str, keep_slash: bool) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            b'/' if keep_slash => encoded.push('/'),
            other => write!(encoded, "%{other:02X}").expect("writing to a string"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(encode("refs/pr/1", false), "refs%2Fpr%2F1");
        assert_eq!(encode("a b/c#é.json", true), "a%20b/c%23%C3%A9.json");
        assert_eq!(without_query("https://h/x?Signature=s"), "https://h/x");
    }

    #[test]
    fn origins() {
        let origin = |text: &str| Origin::of(&text.parse().unwrap()).unwrap();
        assert_eq!(origin("https://H.co/x"), origin("https://h.co:443/y"));
        assert_ne!(origin("https://h.co"), origin("http://h.co"));
        assert_ne!(origin("http://h.co:1"), origin("http://h.co:2"));
        assert!(origin("http://127.0.0.1:80").is_this_machine() && !origin("http://h.co").is_this_machine());
    }
}
