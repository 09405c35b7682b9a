//! `sol pull`, `list` and `rm` against a hub on this machine. What the hub client does in all its cases is tested in sol-hub.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

use crate::support::{Machine, Outcome, fixture, outcome};
use serde_json::{Value, json};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const FILES: [&str; 5] =
    ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"];

/// Serves chat-tiny as `org/tiny` until the test ends; its address.
fn hub() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that hangs up is its own affair.
            let _ = answer(stream);
        }
    });
    address
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone()?);
    reader.read_line(&mut request)?;
    let mut line = String::new();
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let name = path.rsplit('/').next().unwrap_or_default();
    let body = if path.starts_with("/api/models/org/tiny/revision/") {
        let siblings: Vec<Value> = FILES.iter().map(|name| json!({ "rfilename": name })).collect();
        Some(json!({ "sha": COMMIT, "siblings": siblings }).to_string().into_bytes())
    } else if path.starts_with("/org/tiny/resolve/") && FILES.contains(&name) {
        Some(std::fs::read(fixture("chat-tiny").to_owned() + "/" + name)?)
    } else {
        None
    };
    let status = if body.is_some() { 200 } else { 404 };
    let body = body.unwrap_or_default();
    // As for small files of the hub: any name that is the same for the same contents.
    let etag = format!("{:040x}", body.len());
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\n\r\n",
        body.len()
    )?;
    if method != "HEAD" {
        stream.write_all(&body)?;
    }
    Ok(())
}

#[test]
fn a_model_comes_is_used_and_goes() {
    let machine = Machine::new();
    let endpoint = hub();
    let online = |args: &[&str]| -> Outcome {
        outcome(machine.sol(args).env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", &endpoint).output().unwrap())
    };
    let pulled = online(&["pull", "org/tiny"]);
    assert!(pulled.stderr.contains("fetching model.safetensors"), "{}", pulled.stderr);
    let path = pulled.ok();
    assert!(path.trim_end().ends_with(&format!("models--org--tiny/snapshots/{COMMIT}")), "{path}");
    let again = online(&["pull", "org/tiny"]);
    assert_eq!((again.stdout.as_str(), again.stderr.as_str()), (path.as_str(), ""), "nothing is fetched twice");
    let report: Value = serde_json::from_str(&online(&["pull", "org/tiny", "--json", "-q"]).ok()).unwrap();
    assert_eq!(report["path"], path.trim_end());

    // Without the hub, from the cache.
    let answer = machine.run(&["run", "-m", "org/tiny", "Describe été."]).ok();
    assert_eq!(answer, "an8 wat count: c wereouZone\n");

    let listed = machine.run(&["list"]).ok();
    let row = listed.lines().find(|line| line.starts_with("org/tiny")).unwrap();
    assert!(row.contains("01234567 (main)") && row.contains("kB") && row.contains("just now"), "{row}");
    assert!(listed.contains("\n  smollm2 "), "an alias whose model is not here: {listed}");
    let verbose = machine.run(&["list", "-v"]).ok();
    assert!(verbose.contains(path.trim_end()), "{verbose}");
    let report: Value = serde_json::from_str(&machine.run(&["list", "--json"]).ok()).unwrap();
    assert_eq!(report["models"][0]["name"], "org/tiny");
    assert_eq!(report["models"][0]["files"].as_array().unwrap().len(), FILES.len());
    assert_eq!(
        report["aliases"][0],
        json!({ "here": false, "name": "smollm2", "repo": report["aliases"][0]["repo"], "about": report["aliases"][0]["about"] })
    );

    let removed = machine.run(&["rm", "org/tiny"]).ok();
    assert!(removed.starts_with("removed org/tiny: ") && removed.contains("freed"), "{removed}");
    assert!(machine.run(&["list"]).ok().contains("No models are on this machine yet"));
    let gone = machine.run(&["rm", "org/tiny"]).error();
    assert!(gone.contains("not in the cache"), "{gone}");
}

#[test]
fn what_can_not_be_had_or_removed_is_said() {
    let machine = Machine::new();
    for (args, words) in [
        (["pull", "solr-pro"], "did you mean solar-pro"),
        (["pull", "org/tiny"], "HF_HUB_OFFLINE"),
        (["pull", "./nothing"], "no file or directory"),
        (["rm", "smollm2"], "not in the cache"),
        (["rm", &fixture("chat-tiny")], "is a path"),
        (["rm", "nonsense"], "no model is called"),
    ] {
        let error = machine.run(&args).error();
        assert!(error.contains(words), "{args:?}: {error}");
    }
    let endpoint = hub();
    let unknown = machine.sol(&["pull", "org/other"]).env("HF_HUB_OFFLINE", "0").env("HF_ENDPOINT", endpoint).output().unwrap();
    let error = outcome(unknown).error();
    assert!(error.contains("org/other"), "{error}");
}
