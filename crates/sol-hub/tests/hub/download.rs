//! What arrives, and how it lies in the cache.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sol_hub::{Error, ModelRef};

use crate::server::{COMMIT, Reply, Repo, Server, etag, sha256};
use crate::{Machine, Recorder};

fn model_repo() -> Repo {
    Repo::new(
        "org/model",
        &[
            ("README.md", b"read me"),
            ("config.json", b"{}"),
            ("tokenizer.json", b"{\"t\":1}"),
            ("model.safetensors", b"weights of the model"),
            ("original/consolidated.safetensors", b"the same again"),
            ("pytorch_model.bin", b"and again"),
        ],
    )
}

#[test]
fn whole_repository_in_the_shared_layout() {
    let repo = model_repo();
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let recorder = Recorder::default();
    let path = machine.hub().resolve(&ModelRef::parse("org/model").unwrap(), &recorder).unwrap();

    assert_eq!(path, machine.repo_dir("org/model").join("snapshots").join(COMMIT));
    assert_eq!(crate::names(&path), ["config.json", "model.safetensors", "tokenizer.json"]);
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), b"weights of the model");
    let root = machine.repo_dir("org/model");
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    let blob = sha256(b"weights of the model");
    assert!(root.join("blobs").join(&blob).is_file());
    assert_eq!(machine.names("org/model", "blobs").len(), 3, "no .incomplete left");
    #[cfg(unix)]
    assert_eq!(fs::read_link(path.join("model.safetensors")).unwrap(), Path::new("../../blobs").join(&blob));
    assert!(machine.config.hub_cache.join(".locks/models--org--model").join(format!("{blob}.lock")).exists());

    let lines = recorder.lines();
    assert!(lines.contains(&"start model.safetensors Some(20) 0".to_owned()), "{lines:?}");
    assert_eq!(lines.last().unwrap(), "finish model.safetensors");
    assert_eq!(recorder.advanced(), 20 + 2 + 7);
}

#[test]
fn nothing_is_fetched_twice() {
    let repo = model_repo();
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let first = machine.resolve("org/model").unwrap();
    let before = server.requests().len();
    assert_eq!(machine.resolve("org/model").unwrap(), first);
    assert_eq!(server.requests().len(), before + 1, "one request: where is main now?");
    // A commit cannot change: not even that one.
    assert_eq!(machine.resolve(&format!("org/model@{COMMIT}")).unwrap(), first);
    assert_eq!(server.requests().len(), before + 1);
}

#[test]
fn one_file_in_a_folder_and_a_branch_with_a_slash() {
    let repo = Repo::new("org/quants", &[("q/m-Q4_0.gguf", b"four"), ("q/m-Q8_0.gguf", b"eight")]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let path = machine.resolve("org/quants@refs/pr/1:Q8_0").unwrap();
    assert!(path.ends_with("q/m-Q8_0.gguf"));
    assert_eq!(fs::read(&path).unwrap(), b"eight");
    assert_eq!(machine.names("org/quants", "blobs"), [sha256(b"eight")]);
    assert!(machine.repo_dir("org/quants").join("refs/refs/pr/1").is_file());
    assert!(server.requests().iter().any(|request| request.path.ends_with("/revision/refs%2Fpr%2F1")));

    let exact = machine.resolve("org/quants:q/m-Q4_0.gguf").unwrap();
    assert_eq!(fs::read(exact).unwrap(), b"four");
}

#[test]
fn a_split_model_comes_whole_and_a_choice_is_told() {
    let repo = Repo::new(
        "org/quants",
        &[("m-Q4_K_M-00001-of-00002.gguf", b"one"), ("m-Q4_K_M-00002-of-00002.gguf", b"two"), ("m-F16.gguf", b"f")],
    );
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let recorder = Recorder::default();
    let path = machine.hub().resolve(&ModelRef::parse("org/quants").unwrap(), &recorder).unwrap();
    assert!(path.ends_with("m-Q4_K_M-00001-of-00002.gguf"));
    assert!(path.with_file_name("m-Q4_K_M-00002-of-00002.gguf").exists());
    let note = recorder.lines().into_iter().find(|line| line.starts_with("note")).unwrap();
    assert!(note.contains("taking m-Q4_K_M") && note.contains("F16"), "{note}");
}

#[test]
fn the_token_stays_with_the_hub() {
    let repo = model_repo();
    let contents = repo.clone();
    let cdn = Server::start(move |request| {
        let name = request.path.trim_start_matches('/').split('?').next().unwrap();
        match contents.file(name) {
            Some(body) => Reply::body(body).ranged(request),
            None => Reply::status(404),
        }
    });
    let repo = Repo { cdn: Some(cdn.url.clone()), ..repo };
    let server = Server::start(move |request| repo.answer(request));
    // A trailing slash is taken off by the configuration; without that it would be in every address.
    let mut machine = Machine::new(&server.url);
    machine.config.token = Some("hf_secret".to_owned());
    let path = machine.resolve("org/model").unwrap();
    assert_eq!(fs::read(path.join("model.safetensors")).unwrap(), b"weights of the model");

    let to_hub = server.requests();
    assert!(to_hub.iter().all(|request| request.headers["authorization"] == "Bearer hf_secret"));
    let to_cdn = cdn.requests();
    assert_eq!(to_cdn.len(), 1, "the contents; what they are was known from the hub");
    assert!(!to_cdn[0].headers.contains_key("authorization"));
}

#[test]
fn a_moved_repository_is_followed_on_the_hub() {
    let repo = model_repo();
    let server = Server::start(move |request| match request.path.strip_prefix("/old/model") {
        Some(rest) => Reply::status(307).header("Location", format!("/org/model{rest}")),
        None if request.path.starts_with("/api/models/old/model/") => {
            Reply::status(307).header("Location", request.path.replace("/old/", "/org/"))
        }
        None => repo.answer(request),
    });
    let machine = Machine::new(&server.url);
    let path = machine.resolve("old/model").unwrap();
    assert!(path.join("model.safetensors").exists());
}

#[test]
fn a_cut_connection_is_continued() {
    let body: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let repo = Repo::new("org/big", &[("m.gguf", &body)]);
    let server = Server::start(move |request| {
        let mut reply = repo.answer(request);
        if request.is("GET", "m.gguf") {
            reply.cut = Some(150_000);
        }
        reply
    });
    let machine = Machine::new(&server.url);
    let recorder = Recorder::default();
    let path = machine.hub().resolve(&ModelRef::parse("org/big").unwrap(), &recorder).unwrap();
    assert_eq!(fs::read(path).unwrap(), body);
    let ranges: Vec<Option<String>> = server
        .requests()
        .iter()
        .filter(|request| request.is("GET", "m.gguf"))
        .map(|request| request.headers.get("range").cloned())
        .collect();
    assert_eq!(ranges, [None, Some("bytes=150000-".to_owned()), Some("bytes=300000-".to_owned())]);
    assert_eq!(recorder.advanced(), 400_000);
}

/// What a killed process left: the beginning of the blob.
fn with_partial(machine: &Machine, repo: &str, body: &[u8], partial: &[u8]) {
    let blobs = machine.repo_dir(repo).join("blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{}.incomplete", sha256(body))), partial).unwrap();
}

#[test]
fn what_a_killed_process_left_is_continued() {
    let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    with_partial(&machine, "org/m", b"0123456789", b"0123");
    let recorder = Recorder::default();
    let path = machine.hub().resolve(&ModelRef::parse("org/m").unwrap(), &recorder).unwrap();
    assert_eq!(fs::read(path).unwrap(), b"0123456789");
    let lines = recorder.lines();
    assert_eq!(lines, ["start m.gguf Some(10) 4", "advance 6", "finish m.gguf"]);
}

#[test]
fn a_bad_beginning_is_not_taken_for_a_good_one() {
    for partial in [&b"xxxx"[..], b"01234567890123456789", b"xxxxxxxxxx"] {
        let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
        let server = Server::start(move |request| repo.answer(request));
        let machine = Machine::new(&server.url);
        with_partial(&machine, "org/m", b"0123456789", partial);
        assert_eq!(fs::read(machine.resolve("org/m").unwrap()).unwrap(), b"0123456789");
    }
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
    let server = Server::start(move |request| {
        let mut plain = request.clone();
        plain.headers.remove("range");
        repo.answer(&plain)
    });
    let machine = Machine::new(&server.url);
    with_partial(&machine, "org/m", b"0123456789", b"0123");
    assert_eq!(fs::read(machine.resolve("org/m").unwrap()).unwrap(), b"0123456789");
}

#[test]
fn damage_is_noticed_and_not_kept() {
    // Other bytes of the same length, then more bytes than there should be.
    for sent in [&b"01234x6789"[..], b"0123456789more"] {
        let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
        let server = Server::start(move |request| match request.method.as_str() {
            "GET" if request.path.ends_with("m.gguf") => Reply::body(sent),
            _ => repo.answer(request),
        });
        let machine = Machine::new(&server.url);
        let error = machine.resolve("org/m").unwrap_err();
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(machine.names("org/m", "blobs").is_empty());
        assert!(machine.names("org/m", "snapshots").is_empty());
    }
}

#[test]
fn a_stalled_download_is_continued() {
    let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
    let gets = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let mut reply = repo.answer(request);
        if request.is("GET", "m.gguf") && gets.fetch_add(1, Ordering::Relaxed) == 0 {
            reply.cut = Some(4);
            reply.open_for = Duration::from_secs(5);
        }
        reply
    });
    let machine = Machine::new(&server.url);
    assert_eq!(fs::read(machine.resolve("org/m").unwrap()).unwrap(), b"0123456789");
    assert_eq!(server.requests().last().unwrap().headers["range"], "bytes=4-");
}

#[test]
fn gives_up_when_nothing_comes_and_keeps_the_beginning() {
    let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
    let gets = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let mut reply = repo.answer(request);
        if request.is("GET", "m.gguf") {
            reply.cut = Some(if gets.fetch_add(1, Ordering::Relaxed) == 0 { 4 } else { 0 });
        }
        reply
    });
    let machine = Machine::new(&server.url);
    let error = machine.fail("org/m");
    assert!(error.contains("after 4 of 10 bytes") && error.contains("continue"), "{error}");
    assert_eq!(server.count("GET", "m.gguf"), 5);
    assert_eq!(machine.names("org/m", "blobs"), [format!("{}.incomplete", sha256(b"0123456789"))]);
    assert!(machine.names("org/m", "snapshots").is_empty());
    assert_eq!(machine.hub().list().unwrap()[0].unfinished, 4);
}

#[test]
fn failures_that_pass_are_waited_for() {
    let repo = model_repo();
    let listings = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        if request.path.starts_with("/api/") {
            match listings.fetch_add(1, Ordering::Relaxed) {
                0 => return Reply::status(500),
                1 => return Reply::status(429).header("Retry-After", "0"),
                _ => {}
            }
        }
        repo.answer(request)
    });
    assert!(Machine::new(&server.url).resolve("org/model").is_ok());
    assert_eq!(server.count("GET", "/revision/main"), 3);
}

#[test]
fn two_at_once_fetch_once() {
    let repo = Repo::new("org/m", &[("m.gguf", b"0123456789")]);
    let server = Server::start(move |request| {
        let mut reply = repo.answer(request);
        if request.is("GET", "m.gguf") {
            reply.delay = Duration::from_millis(150);
        }
        reply
    });
    let machine = Machine::new(&server.url);
    let recorders = [Recorder::default(), Recorder::default()];
    std::thread::scope(|scope| {
        for recorder in &recorders {
            scope.spawn(|| {
                let path = machine.hub().resolve(&ModelRef::parse("org/m").unwrap(), recorder).unwrap();
                assert_eq!(fs::read(path).unwrap(), b"0123456789");
            });
        }
    });
    assert_eq!(server.count("GET", "m.gguf"), 1);
    let notes: Vec<String> = recorders.iter().flat_map(Recorder::lines).filter(|l| l.starts_with("note")).collect();
    assert!(notes.len() <= 1 && notes.iter().all(|note| note.contains("waiting for another process")), "{notes:?}");
}

#[test]
fn a_new_commit_keeps_what_did_not_change() {
    let old = model_repo();
    let mut new = old.clone();
    new.commit = crate::server::NEXT_COMMIT;
    new.files[1].1 = b"{\"new\":true}".to_vec();
    let listings = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        let next = request.path.contains(crate::server::NEXT_COMMIT)
            || (request.path.starts_with("/api/") && listings.fetch_add(1, Ordering::Relaxed) > 0);
        if next { new.answer(request) } else { old.answer(request) }
    });
    let machine = Machine::new(&server.url);
    let first = machine.resolve("org/model").unwrap();
    let second = machine.resolve("org/model").unwrap();
    assert_ne!(first, second);
    assert_eq!(fs::read(second.join("config.json")).unwrap(), b"{\"new\":true}");
    assert_eq!(fs::read(first.join("config.json")).unwrap(), b"{}");
    assert_eq!(server.count("GET", "model.safetensors"), 1);

    // Removing the old one must leave what the new one uses.
    let removed = machine.hub().remove(&ModelRef::parse(&format!("org/model@{COMMIT}")).unwrap()).unwrap();
    assert_eq!(removed.freed, 2, "the old config.json");
    assert_eq!(fs::read(second.join("model.safetensors")).unwrap(), b"weights of the model");
    assert_eq!(etag("config.json", b"{}").len(), 40);
    let models = machine.hub().list().unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].revisions, ["main"]);
}
