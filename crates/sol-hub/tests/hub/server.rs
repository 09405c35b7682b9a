//! A hub on this machine: a tiny HTTP server, and a repository that it can answer for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const NEXT_COMMIT: &str = "89abcdef0123456789abcdef0123456789abcdef";

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn is(&self, method: &str, end: &str) -> bool {
        self.method == method && self.path.ends_with(end)
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Send no more than this many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Keep the connection open for so long after the last byte.
    pub(crate) open_for: Duration,
    /// Wait before the first byte.
    pub(crate) delay: Duration,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn body(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// Answers on a port of its own until the test process ends; remembers what it was asked.
pub(crate) struct Server {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (answer, requests) = (Arc::new(answer), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (answer, requests) = (Arc::clone(&answer), Arc::clone(&requests));
                std::thread::spawn(move || {
                    if let Some(request) = read_request(stream.as_ref().unwrap()) {
                        requests.lock().unwrap().push(request.clone());
                        let reply = answer(&request);
                        let _ = write_reply(stream.unwrap(), &request, &reply);
                    }
                });
            }
        });
        Self { url, log }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, method: &str, end: &str) -> usize {
        self.requests().iter().filter(|request| request.is(method, end)).count()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers })
}

fn write_reply(mut stream: TcpStream, request: &Request, reply: &Reply) -> std::io::Result<()> {
    std::thread::sleep(reply.delay);
    write!(stream, "HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status)?;
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        write!(stream, "content-length: {}\r\n", reply.body.len())?;
    }
    for (name, value) in &reply.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    write!(stream, "\r\n")?;
    if request.method != "HEAD" {
        stream.write_all(&reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())])?;
    }
    stream.flush()?;
    std::thread::sleep(reply.open_for);
    Ok(())
}

/// A repository as the hub shows it: small files by a git hash, large ones by SHA-256.
#[derive(Clone)]
pub(crate) struct Repo {
    pub(crate) name: &'static str,
    /// Whether it holds data, not a model.
    pub(crate) dataset: bool,
    pub(crate) commit: &'static str,
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// Where the contents of large files are.
    pub(crate) cdn: Option<String>,
}

impl Repo {
    pub(crate) fn new(name: &'static str, files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, body)| ((*name).to_owned(), body.to_vec())).collect();
        Self { name, dataset: false, commit: COMMIT, files, cdn: None }
    }

    pub(crate) fn dataset(name: &'static str, files: &[(&str, &[u8])]) -> Self {
        Self { dataset: true, ..Self::new(name, files) }
    }

    pub(crate) fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(known, _)| known == name).map(|(_, body)| body.as_slice())
    }

    pub(crate) fn answer(&self, request: &Request) -> Reply {
        let (kind, above) = if self.dataset { ("datasets", "/datasets") } else { ("models", "") };
        if request.path.starts_with(&format!("/api/{kind}/{}/revision/", self.name)) {
            let siblings: Vec<_> = self.files.iter().map(|(name, _)| serde_json::json!({ "rfilename": name })).collect();
            let info = serde_json::json!({ "id": self.name, "sha": self.commit, "siblings": siblings });
            return Reply::body(info.to_string());
        }
        let prefix = format!("{above}/{}/resolve/", self.name);
        let Some((_, name)) = request.path.strip_prefix(&prefix).and_then(|rest| rest.split_once('/')) else {
            return Reply::status(404).header("X-Error-Code", "RepoNotFound");
        };
        let Some(body) = self.file(name) else {
            return Reply::status(404).header("X-Error-Code", "EntryNotFound");
        };
        let reply = Reply::default().header("X-Repo-Commit", self.commit);
        if !is_large(name) {
            return Reply { body: body.to_vec(), ..reply.header("ETag", format!("\"{}\"", etag(name, body))) }.ranged(request);
        }
        let reply =
            reply.header("X-Linked-Etag", format!("\"{}\"", etag(name, body))).header("X-Linked-Size", body.len().to_string());
        match &self.cdn {
            Some(cdn) => Reply { status: 302, ..reply }.header("Location", format!("{cdn}/{name}?Signature=x")),
            None => Reply { body: body.to_vec(), ..reply.header("ETag", "W/\"of-the-server\"") }.ranged(request),
        }
    }
}

impl Reply {
    /// 206 with the rest, where a rest is asked for.
    pub(crate) fn ranged(mut self, request: &Request) -> Self {
        self.status = 200;
        let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
        if let Some(from) = range.map(|from| from.parse::<usize>().unwrap()) {
            let total = self.body.len();
            if from >= total {
                return Self::status(416);
            }
            self.body.drain(..from);
            self.status = 206;
            return self.header("Content-Range", format!("bytes {from}-{}/{total}", total - 1));
        }
        self
    }
}

pub(crate) fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".gguf") || name.ends_with(".parquet")
}

pub(crate) fn sha256(body: &[u8]) -> String {
    Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn etag(name: &str, body: &[u8]) -> String {
    let mut etag = sha256(body);
    if !is_large(name) {
        etag.truncate(40);
    }
    etag
}
