//! Requests to a server: one at a time, retried while there is hope, and what a refusal means.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use ureq::http::{HeaderMap, Request, StatusCode, Uri};
use ureq::tls::TlsConfig;
use ureq::{Agent, Timeout};

use super::RemoteOptions;
use crate::{Error, Result};

/// A server that is there takes a connection sooner.
const CONNECT: Duration = Duration::from_secs(20);
/// Longest answer, in bytes. The echo of 128 Ki tokens with their likeliest rivals is below this.
const LONGEST: u64 = 64 << 20;
/// Longest wait between two tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Longest wait that a server may ask for.
const LONGEST_ASKED_PAUSE: Duration = Duration::from_secs(300);
/// Characters of a server's message that are shown.
const SHOWN: usize = 300;
/// How long nobody looks whether to stop.
const SLICE: Duration = Duration::from_millis(50);

/// A server and how it is spoken to.
pub(super) struct Client {
    agent: Agent,
    base: String,
    api_key: Option<String>,
    timeout: Duration,
    backoff: Duration,
    /// Time between the beginnings of two requests, and when the next may begin.
    pace: Option<(Duration, Mutex<Instant>)>,
}

/// Why a try failed.
enum Failure {
    /// Another may not. When the server wants it.
    Passing(Box<Error>, Option<Duration>),
    /// So will the next.
    Final(Box<Error>),
}

impl Failure {
    fn last(url: &str, problem: impl Into<String>) -> Self {
        Self::Final(Box::new(server(url, problem.into())))
    }
}

impl Client {
    pub(super) fn new(options: &RemoteOptions) -> Result<Self> {
        let mut base = options.base_url.trim().trim_end_matches('/');
        for end in ["/chat/completions", "/completions"] {
            base = base.strip_suffix(end).unwrap_or(base);
        }
        let wrong = |problem: &str| Error::Server { url: options.base_url.clone(), problem: problem.into() };
        let uri: Uri = base.parse().map_err(|_| wrong("this is no address; one looks like http://localhost:8000/v1"))?;
        let host = uri.host().unwrap_or_default();
        let scheme = uri.scheme_str().unwrap_or_default();
        if host.is_empty() || !matches!(scheme, "http" | "https") {
            return Err(wrong("an address begins with http:// or https:// and names a host, as http://localhost:8000/v1 does"));
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("solarium/", env!("CARGO_PKG_VERSION")))
            .max_idle_connections(options.concurrency)
            .max_idle_connections_per_host(options.concurrency)
            .timeout_connect(Some(CONNECT.min(options.timeout)))
            .timeout_global(Some(options.timeout));
        if matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
            config = config.proxy(None);
        }
        if scheme == "https" {
            config = config.tls_config(TlsConfig::builder().root_certs(sol_hub::root_certs()).build());
        }
        let gap = |per_minute: u32| Duration::from_secs(60) / per_minute.max(1);
        Ok(Self {
            agent: config.build().into(),
            base: base.to_owned(),
            api_key: options.api_key.clone().filter(|key| !key.is_empty()),
            timeout: options.timeout,
            backoff: options.backoff,
            pace: options.requests_per_minute.map(|n| (gap(n), Mutex::new(Instant::now()))),
        })
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.base)
    }

    /// Asks (with a body: POST), again and again where that may help, at most `retries` times more. `hint(status)` says what to do
    /// about a refusal that is the request's own fault.
    pub(super) fn ask(
        &self,
        path: &str,
        body: Option<&Value>,
        retries: u32,
        halt: &AtomicBool,
        hint: &dyn Fn(u16) -> String,
    ) -> Result<Vec<u8>> {
        let url = self.url(path);
        let body = body.map(|body| body.to_string().into_bytes());
        let mut tries = 0;
        loop {
            self.wait_for_turn(halt)?;
            let (error, asked) = match self.once(&url, body.as_deref(), hint) {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(*error),
                Err(Failure::Passing(error, asked)) => (*error, asked),
            };
            if tries == retries {
                return Err(given_up(error, tries + 1));
            }
            let growing = self.backoff.saturating_mul(2_u32.saturating_pow(tries)).min(LONGEST_PAUSE);
            let pause = match asked {
                Some(asked) if asked > LONGEST_ASKED_PAUSE => {
                    return Err(add(error, &format!("; it asks to wait for {} s", asked.as_secs())));
                }
                // Whoever was turned away together does not come back together.
                Some(asked) => asked + self.backoff.mul_f64(fastrand::f64()),
                None => growing.mul_f64(0.5 + fastrand::f64() / 2.0),
            };
            wait(pause, halt)?;
            tries += 1;
        }
    }

    fn wait_for_turn(&self, halt: &AtomicBool) -> Result<()> {
        let mut pause = Duration::ZERO;
        if let Some((gap, next)) = &self.pace {
            // Nothing that a panic could have left half done.
            let mut next = next.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let now = Instant::now();
            let turn = (*next).max(now);
            *next = turn + *gap;
            pause = turn - now;
        }
        wait(pause, halt)
    }

    fn once(&self, url: &str, body: Option<&[u8]>, hint: &dyn Fn(u16) -> String) -> Result<Vec<u8>, Failure> {
        let mut request = Request::builder().uri(url).method(if body.is_some() { "POST" } else { "GET" });
        if let Some(key) = &self.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let unusable = |e: ureq::http::Error| Failure::last(url, format!("the address or the key can not be sent: {e}"));
        let sent = match body {
            Some(body) => self.agent.run(request.header("content-type", "application/json").body(body).map_err(unusable)?),
            None => self.agent.run(request.body(()).map_err(unusable)?),
        };
        let answer = sent.map_err(|e| self.broken(url, &e))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if status.is_redirection() {
            let to = header(&headers, "location").unwrap_or("nowhere").to_owned();
            let problem = format!("it redirects to {}; give that address as --base-url if you trust it", shown(&to));
            return Err(Failure::last(url, problem));
        }
        let text = answer.into_body().into_with_config().limit(LONGEST).read_to_vec();
        if !status.is_success() {
            // What is left of a message is better than none.
            return Err(self.refusal(url, status, &headers, &text.unwrap_or_default(), hint));
        }
        text.map_err(|e| self.broken(url, &e))
    }

    fn refusal(&self, url: &str, status: StatusCode, headers: &HeaderMap, text: &[u8], hint: &dyn Fn(u16) -> String) -> Failure {
        let message = message(text);
        let code = status.as_u16();
        let hint = match code {
            401 if self.api_key.is_none() => "; it wants a key: --api-key, or OPENAI_API_KEY in the environment".to_owned(),
            401 => "; the key (--api-key or OPENAI_API_KEY) is not one of its".to_owned(),
            403 => "; the key may not do this".to_owned(),
            404 => format!(
                "; --base-url ends in /v1 with most servers, and --served-model must be one of those that {} lists",
                self.url("models")
            ),
            _ => hint(code),
        };
        let spent = message.contains("insufficient_quota");
        let message = if message.is_empty() { message } else { format!(": {message}") };
        let error = Box::new(Error::Refused { url: url.to_owned(), status: code, message, hint });
        match code {
            429 if spent => Failure::Final(error),
            501 | 505 => Failure::Final(error),
            408 | 429 | 500.. => Failure::Passing(error, retry_after(headers)),
            _ => Failure::Final(error),
        }
    }

    /// No answer, or half of one.
    fn broken(&self, url: &str, error: &ureq::Error) -> Failure {
        let passing = |problem: String| Failure::Passing(Box::new(server(url, problem)), None);
        match error {
            ureq::Error::HostNotFound => Failure::last(url, "no host has this name"),
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                passing("no connection in time; is the server up?".into())
            }
            ureq::Error::Timeout(_) => {
                let limit = self.timeout.as_secs_f64();
                passing(format!("no answer within {limit} s; fewer requests at once (--concurrency) may help"))
            }
            ureq::Error::Io(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                passing("the connection was refused; is the server up?".into())
            }
            ureq::Error::Io(e) if e.to_string().contains("lookup address") => Failure::last(url, "no host has this name"),
            ureq::Error::Io(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) | ureq::Error::BodyStalled => {
                passing(format!("the connection broke: {error}"))
            }
            ureq::Error::BodyExceedsLimit(_) => Failure::last(url, format!("the answer is longer than {} MiB", LONGEST >> 20)),
            ureq::Error::Rustls(_) | ureq::Error::Tls(_) => {
                Failure::last(url, format!("no secure connection: {error} (SSL_CERT_FILE names other certificates)"))
            }
            other => Failure::last(url, other.to_string()),
        }
    }
}

pub(super) fn server(url: &str, problem: String) -> Error {
    Error::Server { url: url.to_owned(), problem }
}

fn given_up(error: Error, tries: u32) -> Error {
    if tries == 1 { error } else { add(error, &format!(" (given up after {tries} tries)")) }
}

fn add(error: Error, more: &str) -> Error {
    match error {
        Error::Server { url, problem } => Error::Server { url, problem: problem + more },
        Error::Refused { url, status, message, hint } => Error::Refused { url, status, message, hint: hint + more },
        other => other,
    }
}

/// Sleeps, unless nobody wants the answer any more.
fn wait(pause: Duration, halt: &AtomicBool) -> Result<()> {
    let end = Instant::now() + pause;
    loop {
        if halt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(SLICE));
    }
}

/// What a refusal says, wherever a server puts it.
fn message(text: &[u8]) -> String {
    let json: Value = serde_json::from_slice(text).unwrap_or_default();
    let places = ["/error/message", "/error", "/message", "/detail"];
    let said = places.iter().filter_map(|place| json.pointer(place)).find(|said| !said.is_null());
    let code = json.pointer("/error/code").and_then(Value::as_str);
    match said {
        Some(Value::String(said)) => match code {
            Some(code) if !said.contains(code) => shown(&format!("{said} ({code})")),
            _ => shown(said),
        },
        Some(said) => shown(&said.to_string()),
        None => shown(&String::from_utf8_lossy(text)),
    }
}

/// A server's words, made fit for a terminal.
pub(super) fn shown(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().take(SHOWN).map(plain).collect()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: f64 = header(headers, "retry-after")?.trim().parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_say_why_in_their_own_places() {
        assert_eq!(message(br#"{"error": {"message": "no", "code": "insufficient_quota"}}"#), "no (insufficient_quota)");
        assert_eq!(message(br#"{"object": "error", "message": "too long"}"#), "too long");
        assert_eq!(message(br#"{"error": "gone"}"#), "gone");
        assert_eq!(message(br#"{"detail": [{"msg": "int"}]}"#), r#"[{"msg":"int"}]"#);
        assert_eq!(message(b"<html>\x1b[31mbad\n"), "<html> [31mbad");
        assert_eq!(message(b""), "");
    }

    #[test]
    fn addresses_are_taken_with_and_without_the_endpoint() {
        let base = |url: &str| Client::new(&RemoteOptions::new(url, "m")).map(|client| client.base);
        for url in ["http://h/v1", "http://h/v1/", "http://h/v1/completions", "http://h/v1/chat/completions"] {
            assert_eq!(base(url).unwrap(), "http://h/v1");
        }
        for url in ["h/v1", "ftp://h", "", "http://"] {
            assert!(base(url).is_err(), "{url}");
        }
    }
}
