//! What the cache answers without a hub, and what list and remove make of it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sol_hub::{Error, ModelRef};

use crate::server::{COMMIT, Reply, Repo, Server, sha256};
use crate::{Machine, Recorder};

fn sharded() -> Repo {
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    Repo::new(
        "org/m",
        &[
            ("config.json", b"{}"),
            ("model.safetensors.index.json", index),
            ("model-00001-of-00002.safetensors", b"first"),
            ("model-00002-of-00002.safetensors", b"second"),
        ],
    )
}

/// A machine with `repo` in its cache, and no hub any more.
fn machine_with(repo: Repo, model: &str) -> Machine {
    let server = Server::start(move |request| repo.answer(request));
    let mut machine = Machine::new(&server.url);
    machine.resolve(model).unwrap();
    machine.config.endpoint = "http://hub.invalid".to_owned();
    machine
}

#[test]
fn offline_and_unreachable_use_the_cache() {
    let mut machine = machine_with(sharded(), "org/m");
    let expected = machine.repo_dir("org/m").join("snapshots").join(COMMIT);
    let recorder = Recorder::default();
    let path = machine.hub().resolve(&ModelRef::parse("org/m").unwrap(), &recorder).unwrap();
    assert_eq!(path, expected);
    let notes = recorder.lines();
    assert!(notes[0].contains("cannot be reached") && notes[0].contains("in the cache"), "{notes:?}");

    let cached = |model: &str| machine.hub().cached(&ModelRef::parse(model).unwrap());
    assert_eq!(cached("org/m").as_ref(), Some(&expected));
    assert_eq!((cached("org/m@v2"), cached("smollm2")), (None, None));

    machine.config.offline = true;
    assert_eq!(machine.resolve("org/m").unwrap(), expected);
    assert_eq!(machine.resolve("org/m:config.json").unwrap(), expected.join("config.json"));
    assert!(matches!(machine.resolve("org/m@v2"), Err(Error::Offline { .. })));
    assert!(matches!(machine.resolve("org/other"), Err(Error::Offline { .. })));
}

#[test]
fn a_half_written_cache_is_noticed() {
    // A download cut between two files: the second shard never came.
    let repo = sharded();
    let broken = Arc::new(AtomicBool::new(true));
    let fails = Arc::clone(&broken);
    let server = Server::start(move |request| {
        if fails.load(Ordering::Relaxed) && request.is("GET", "00002-of-00002.safetensors") {
            return Reply::status(500);
        }
        repo.answer(request)
    });
    let mut machine = Machine::new(&server.url);
    assert!(machine.resolve("org/m").is_err());
    machine.config.offline = true;
    assert!(matches!(machine.resolve("org/m"), Err(Error::Offline { .. })));
    assert!(matches!(machine.resolve(&format!("org/m@{COMMIT}")), Err(Error::Offline { .. })));

    machine.config.offline = false;
    broken.store(false, Ordering::Relaxed);
    assert!(machine.resolve("org/m").is_ok());
    assert_eq!(server.count("GET", "00001-of-00002.safetensors"), 1, "what was whole stays");
}

#[test]
fn a_damaged_file_is_noticed_and_fetched_again() {
    let repo = sharded();
    let server = Server::start(move |request| repo.answer(request));
    let mut machine = Machine::new(&server.url);
    let path = machine.resolve("org/m").unwrap();
    let shard = path.join("model-00002-of-00002.safetensors");
    fs::write(&shard, "sec").unwrap();

    machine.config.offline = true;
    assert!(matches!(machine.resolve("org/m"), Err(Error::Offline { .. })));
    machine.config.offline = false;
    machine.resolve("org/m").unwrap();
    assert_eq!(fs::read(&shard).unwrap(), b"second");

    // A link that leads nowhere.
    fs::remove_file(machine.repo_dir("org/m").join("blobs").join(sha256(b"first"))).unwrap();
    machine.resolve("org/m").unwrap();
    assert_eq!(fs::read(path.join("model-00001-of-00002.safetensors")).unwrap(), b"first");
}

#[test]
fn a_page_of_somebody_else_is_no_hub() {
    let mut machine = machine_with(sharded(), "org/m");
    let portal = Server::start(|_| Reply::body("<html>please log in</html>"));
    machine.config.endpoint = portal.url.clone();
    assert!(machine.resolve("org/m").is_ok());
}

#[test]
fn a_cache_of_another_program() {
    let mut machine = machine_with(sharded(), "org/m");
    fs::remove_dir_all(machine.repo_dir("org/m").join(".solarium")).unwrap();
    machine.config.offline = true;
    let path = machine.resolve("org/m").unwrap();
    fs::remove_file(path.join("model-00002-of-00002.safetensors")).unwrap();
    assert!(matches!(machine.resolve("org/m"), Err(Error::Offline { .. })), "the index names it");
}

#[test]
fn list_and_remove() {
    let machine = machine_with(sharded(), "org/m");
    // What does not belong there is passed over.
    fs::create_dir_all(machine.config.hub_cache.join("datasets--org--d/snapshots")).unwrap();
    fs::create_dir_all(machine.config.hub_cache.join("models--..--x/snapshots")).unwrap();
    fs::write(machine.config.hub_cache.join("version.txt"), "1").unwrap();

    let models = machine.hub().list().unwrap();
    assert_eq!(models.len(), 1);
    let model = &models[0];
    assert_eq!((model.name.as_str(), model.commit.as_deref()), ("org/m", Some(COMMIT)));
    assert_eq!((model.revisions.as_slice(), model.files.len()), (&["main".to_owned()][..], 4));
    let size: u64 = model.files.iter().map(|file| fs::metadata(&file.path).unwrap().len()).sum();
    assert_eq!(model.size, size);
    assert!(model.modified.is_some() && model.path.is_dir());
    let json = serde_json::to_value(model).unwrap();
    assert_eq!(json["files"][0]["name"], "config.json");

    let remove = |text: &str| machine.hub().remove(&ModelRef::parse(text).unwrap());
    assert!(matches!(remove("org/other"), Err(Error::NotCached { .. })));
    assert!(matches!(remove("org/m@v2"), Err(Error::NotCached { .. })));
    assert!(matches!(remove("smollm2"), Err(Error::NotCached { .. })));
    let here = ModelRef::Path(machine.dir.path().to_owned());
    assert!(matches!(machine.hub().remove(&here), Err(Error::NotOurs { .. })));

    let removed = remove(&format!("org/m@{}", &COMMIT[..8])).unwrap();
    assert_eq!(removed.freed, size);
    assert!(!machine.repo_dir("org/m").exists());
    assert!(machine.hub().list().unwrap().is_empty());
}

#[test]
fn removing_one_file_or_all() {
    let repo = Repo::new("org/q", &[("m-Q4_0.gguf", b"four"), ("m-Q8_0.gguf", b"eight")]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    machine.resolve("org/q:Q4_0").unwrap();
    let kept = machine.resolve("org/q:Q8_0").unwrap();
    let removed = machine.hub().remove(&ModelRef::parse("org/q:Q4_0").unwrap()).unwrap();
    assert_eq!(removed.freed, 4);
    assert!(kept.exists());
    assert_eq!(machine.names("org/q", "blobs"), [sha256(b"eight")]);

    let removed = machine.hub().remove(&ModelRef::parse("org/q").unwrap()).unwrap();
    assert!(removed.freed > 5);
    assert!(crate::names(&machine.config.hub_cache).iter().all(|name| name == ".locks"));
    // And it can come back.
    assert!(machine.resolve("org/q:Q8_0").is_ok());
}

#[test]
fn an_empty_machine_has_no_models() {
    assert!(Machine::new("http://hub.invalid").hub().list().unwrap().is_empty());
}
