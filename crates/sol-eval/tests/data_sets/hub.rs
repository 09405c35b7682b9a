//! Data sets of a hub that is played here.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};
use sol_eval::data::Source;
use sol_eval::{Error, Result};
use sol_hub::{Hub, HubConfig, PinnedModel, Silent, Timeouts};

use crate::{location, sample};

const MAIN: &str = "0123456789abcdef0123456789abcdef01234567";
const CONVERTED: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// The files of each commit, and whether they are shown to those without a token.
struct Played {
    files: Vec<(&'static str, &'static str, Vec<u8>)>,
    gated: bool,
}

struct Server {
    url: String,
    log: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(played: Played) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let requests = Arc::clone(&log);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let lines: Vec<String> =
                    BufReader::new(&stream).lines().map_while(|line| line.ok().filter(|line| !line.is_empty())).collect();
                let Some((method, path)) = lines.first().and_then(|line| line.split_once(' ')) else { continue };
                let path = path.split(' ').next().unwrap();
                requests.lock().unwrap().push(path.to_owned());
                let token = lines.iter().any(|line| line.to_lowercase().starts_with("authorization:"));
                let (status, headers, body) = played.answer(path, token);
                let _ =
                    write!(stream, "HTTP/1.1 {status} X\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n", body.len());
                if method != "HEAD" {
                    let _ = stream.write_all(&body);
                }
            }
        });
        Self { url, log }
    }
}

impl Played {
    fn answer(&self, path: &str, token: bool) -> (u16, String, Vec<u8>) {
        let refused = |status: u16, code: &str| (status, format!("X-Error-Code: {code}\r\n"), Vec::new());
        if let Some(revision) = path.strip_prefix("/api/datasets/org/d/revision/") {
            let commit = match revision {
                "main" | MAIN => MAIN,
                "refs%2Fconvert%2Fparquet" | CONVERTED => CONVERTED,
                _ => return refused(404, "RevisionNotFound"),
            };
            let files = self.files.iter().filter(|file| file.0 == commit);
            let siblings: Vec<_> = files.map(|file| serde_json::json!({ "rfilename": file.1 })).collect();
            if siblings.is_empty() {
                return refused(404, "RevisionNotFound");
            }
            return (200, String::new(), serde_json::json!({ "sha": commit, "siblings": siblings }).to_string().into());
        }
        let Some((commit, name)) = path.strip_prefix("/datasets/org/d/resolve/").and_then(|rest| rest.split_once('/')) else {
            return refused(404, "RepoNotFound");
        };
        if self.gated && !token {
            return refused(401, "GatedRepo");
        }
        match self.files.iter().find(|file| file.0 == commit && file.1 == name) {
            Some((_, _, body)) => {
                let digest: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
                (200, format!("ETag: \"{digest}\"\r\n"), body.clone())
            }
            None => refused(404, "EntryNotFound"),
        }
    }
}

/// A machine with an empty cache.
struct Machine {
    _dir: tempfile::TempDir,
    config: HubConfig,
}

impl Machine {
    fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let second = Duration::from_secs(1);
        let config = HubConfig {
            endpoint: endpoint.to_owned(),
            token: None,
            offline: false,
            hub_cache: dir.path().join("hub"),
            models_dir: dir.path().join("own"),
            pip: Vec::new(),
            use_proxy: false,
            timeouts: Timeouts { connect: second, response: second, stall: second, backoff: second / 100, longest_pause: second },
            default_model: PinnedModel::default(),
        };
        Self { _dir: dir, config }
    }

    fn source(&self) -> Source {
        Source::hub(Hub::new(self.config.clone()))
    }

    /// Number of rows, and where they came from.
    fn get(&self, table: &str, split: &str) -> Result<(usize, String)> {
        let (source, location) = (self.source(), location(table));
        let rows = source.rows(&location, split, &Silent)?;
        let origin = source.describe(&location, split, &Silent)?;
        Ok((rows.len(), origin.hub.unwrap()))
    }
}

fn parquet(name: &str) -> Vec<u8> {
    fs::read(sample(name)).unwrap()
}

/// A data set with its own Parquet files and a conversion of them.
fn own() -> Played {
    let files = vec![
        (MAIN, "README.md", b"# d".to_vec()),
        (MAIN, "data/test-00000-of-00001.parquet", parquet("delta.parquet")),
        (CONVERTED, "default/test/0000.parquet", parquet("dictionary.parquet")),
    ];
    Played { files, gated: false }
}

/// One whose own files can not be read.
fn script(gated: bool) -> Played {
    let files = vec![
        (MAIN, "d.py", b"import datasets".to_vec()),
        (MAIN, "x.csv", b"a,b".to_vec()),
        (CONVERTED, "x/test/0000.parquet", parquet("snappy.parquet")),
        (CONVERTED, "y/test/0000.parquet", parquet("delta.parquet")),
        (CONVERTED, "y/test/0001.parquet", parquet("delta.parquet")),
    ];
    Played { files, gated }
}

#[test]
fn own_files_then_offline() {
    let server = Server::start(own());
    let mut machine = Machine::new(&server.url);
    let main = format!("org/d@{MAIN}");
    assert_eq!(machine.get("hub = \"org/d\"", "test").unwrap(), (7, main.clone()));
    assert!(!server.log.lock().unwrap().iter().any(|path| path.contains("convert")));
    machine.config.offline = true;
    assert_eq!(machine.get("hub = \"org/d\"", "test").unwrap(), (7, main));
    let error = machine.get("hub = \"org/d\"", "train").unwrap_err();
    assert!(matches!(error, Error::NoData { .. }), "{error:?}");
    assert!(error.to_string().contains("HF_HUB_OFFLINE") && error.to_string().contains("--data DIR"), "{error}");
}

#[test]
fn a_pinned_revision() {
    let server = Server::start(own());
    let mut machine = Machine::new(&server.url);
    let pinned = format!("hub = \"org/d\"\nrevision = \"{CONVERTED}\"");
    let expected = (200, format!("org/d@{CONVERTED}"));
    assert_eq!(machine.get(&pinned, "test").unwrap(), expected);
    let before = server.log.lock().unwrap().len();
    assert_eq!(machine.get(&pinned, "test").unwrap(), expected);
    assert_eq!(server.log.lock().unwrap().len(), before, "a commit can not change");
    machine.config.offline = true;
    assert_eq!(machine.get(&pinned, "test").unwrap(), expected);
    machine.config.offline = false;
    let error = machine.get("hub = \"org/d\"\nrevision = \"v9\"", "test").unwrap_err().to_string();
    assert!(error.contains("no revision 'v9'"), "{error}");
}

#[test]
fn a_script_is_read_as_converted() {
    let server = Server::start(script(false));
    let mut machine = Machine::new(&server.url);
    let converted = format!("org/d@{CONVERTED}");
    let source = machine.source();
    for (config, count) in [("x", 7), ("y", 14)] {
        let location = location(&format!("hub = \"org/d\"\nconfig = \"{config}\""));
        assert_eq!(source.rows(&location, "test", &Silent).unwrap().len(), count);
    }
    let listings = server.log.lock().unwrap().iter().filter(|path| path.starts_with("/api/")).count();
    assert_eq!(listings, 2, "each branch is looked up once");
    let error = machine.get("hub = \"org/d\"\nconfig = \"z\"", "test").unwrap_err().to_string();
    assert!(error.contains("split 'test' of config 'z'") && error.contains("refs/convert/parquet"), "{error}");

    // Without a network: main was never kept, and need not be asked.
    for offline in [true, false] {
        machine.config.offline = offline;
        machine.config.endpoint = "http://hub.invalid".to_owned();
        assert_eq!(machine.get("hub = \"org/d\"\nconfig = \"y\"", "test").unwrap(), (14, converted.clone()));
    }
}

#[test]
fn gated() {
    let server = Server::start(script(true));
    let mut machine = Machine::new(&server.url);
    let says_what_to_do = |error: Error| {
        let text = error.to_string();
        assert!(matches!(error, Error::NoData { .. }), "{error:?}");
        for part in ["org/d is gated", "/datasets/org/d", "HF_TOKEN", "--data DIR"] {
            assert!(text.contains(part), "{text}");
        }
    };
    says_what_to_do(machine.get("hub = \"org/d\"\nconfig = \"x\"", "test").unwrap_err());
    let before = server.log.lock().unwrap().len();
    let table = "hub = \"org/d\"\nconfig = \"x\"\ngated = true";
    says_what_to_do(machine.get(table, "test").unwrap_err());
    assert_eq!(server.log.lock().unwrap().len(), before, "known to be gated: nobody is asked");
    machine.config.token = Some("hf_x".to_owned());
    assert_eq!(machine.get(table, "test").unwrap().0, 7);
    // What is here is here.
    machine.config.token = None;
    assert_eq!(machine.get(table, "test").unwrap().0, 7);
}

#[test]
fn not_there() {
    let server = Server::start(Played { files: Vec::new(), gated: false });
    let error = Machine::new(&server.url).get("hub = \"org/other\"", "test").unwrap_err().to_string();
    assert!(error.contains("no repository org/other"), "{error}");
    let error = Machine::new("http://hub.invalid").get("hub = \"org/d\"", "test").unwrap_err().to_string();
    assert!(error.contains("cannot be reached") && error.contains("--data DIR"), "{error}");
    let error = Machine::new(&server.url).get("hub = \"d\"", "test").unwrap_err().to_string();
    assert!(error.contains("'d' does not name a data set"), "{error}");
}

#[test]
fn a_task_without_a_hub_reads_its_folder() {
    let dir = tempfile::tempdir().unwrap();
    crate::write(dir.path(), "mine/test.jsonl", "{\"a\":1}");
    let table = format!("folder = \"{}\"", dir.path().join("mine").display());
    let rows = Machine::new("http://hub.invalid").source().rows(&location(&table), "test", &Silent).unwrap();
    assert_eq!(rows[0]["a"], 1);
}
