//! A server on a port of its own, with a tiny model, and the simplest of clients.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sol_engine::LanguageModel;
use sol_serve::{Options, Server, Source};
use tokio::sync::oneshot;

/// No test waits longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(60);

/// A prompt of chat-tiny and its answer, which transformers gave; the model ends it by itself.
pub(crate) const PROMPT: &str = "Describe été.";
pub(crate) const ANSWER: &str = "an8 wat count: c wereouZone";

/// A tiny checkpoint of `xtools/make_model_fixtures.py`.
pub(crate) fn open(name: &str, options: sol_engine::Options) -> LanguageModel {
    LanguageModel::open(&fixture(name), options).unwrap()
}

/// Where it is.
pub(crate) fn fixture(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", name].iter().collect()
}

/// A running server; dropping it ends it.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<bool>>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: ureq::http::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    /// The answer of a request that went well.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Status, code, field and message of OpenAI's error object.
    pub(crate) fn error(&self) -> (u16, String, String, String) {
        let error = &self.json()["error"];
        assert!(error["type"].is_string(), "{}", self.text);
        let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
        (self.status, text("code"), text("param"), text("message"))
    }

    /// The chunks of a stream that ended as it should.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        assert_eq!(self.status, 200, "{}", self.text);
        assert_eq!(self.headers["content-type"], "text/event-stream");
        let mut data: Vec<&str> = self.text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"));
        data.into_iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Running {
    pub(crate) fn start(model: LanguageModel, options: Options) -> Self {
        Self::start_many(vec![Source::ready(options.names.clone(), model)], 1, options)
    }

    pub(crate) fn start_many(sources: Vec<Source>, keep: usize, options: Options) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind_many("127.0.0.1", 0, sources, keep, &options).await.unwrap();
                tell.send(server.address()).unwrap();
                server.run(async { drop(stopped.await) }).await
            })
        });
        Self { address: told.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    /// chat-tiny for so many at a time, under the name `tiny`.
    pub(crate) fn tiny(sequences: usize) -> Self {
        Self::start(chat_tiny(sequences), Options::new("tiny"))
    }

    /// Tells it to go.
    pub(crate) fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }

    /// Whether all that ran was finished.
    pub(crate) fn wait(&mut self) -> bool {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(LONGEST));
        let agent: ureq::Agent = config.allow_non_standard_methods(true).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut response = if body.is_empty() {
            agent.run(request.body(()).unwrap()).unwrap()
        } else {
            agent.run(request.body(body).unwrap()).unwrap()
        };
        let text = response.body_mut().read_to_string().unwrap();
        Reply { status: response.status().as_u16(), headers: response.headers().clone(), text }
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send("GET", path, &[], b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Reply {
        self.send("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// One user message, with further fields.
    pub(crate) fn chat(&self, content: &str, more: Value) -> Reply {
        self.post(
            "/v1/chat/completions",
            &with(json!({"model": "tiny", "messages": [{"role": "user", "content": content}]}), more),
        )
    }

    pub(crate) fn complete(&self, prompt: impl Into<Value>, more: Value) -> Reply {
        self.post("/v1/completions", &with(json!({"model": "tiny", "prompt": prompt.into()}), more))
    }

    /// A stream that goes on until the context ends.
    pub(crate) fn endless(&self, content: &str) -> BufReader<TcpStream> {
        let body = json!({"messages": [{"role": "user", "content": content}], "stream": true, "ignore_eos": true}).to_string();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(LONGEST)).unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        BufReader::new(stream)
    }

    /// Several such streams, once the engine has all of them.
    pub(crate) fn endlessly(&self, count: usize) -> Vec<BufReader<TcpStream>> {
        let streams = (0..count).map(|i| self.endless(&format!("{PROMPT} {i}"))).collect();
        let (start, asked) = (Instant::now(), |name: &str| self.figure(&format!("solarium_requests_{name}")));
        while asked("done_total") + asked("running") + asked("waiting") < count as f64 {
            assert!(start.elapsed() < LONGEST);
            std::thread::sleep(Duration::from_millis(1));
        }
        streams
    }

    /// A figure of `/metrics`.
    pub(crate) fn figure(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text;
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{"))).unwrap_or_else(|| panic!("{name}: {text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until a figure is this.
    pub(crate) fn until(&self, name: &str, value: f64) {
        let start = Instant::now();
        while self.figure(name) != value {
            assert!(start.elapsed() < LONGEST, "{name} is {}", self.figure(name));
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

pub(crate) fn chat_tiny(sequences: usize) -> LanguageModel {
    open("chat-tiny", sol_engine::Options { sequences: Some(sequences), ..sol_engine::Options::default() })
}

fn with(mut body: Value, more: Value) -> Value {
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// All that a raw connection gives for these bytes.
pub(crate) fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONGEST)).unwrap();
    // A server that has heard enough closes.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}
