//! Data sets: their own addresses and their own folder of the cache, all else as with models.

use std::fs;

use sol_hub::{DatasetFiles, Error, ModelRef, Result, Silent};

use crate::server::{COMMIT, NEXT_COMMIT, Reply, Repo, Server, sha256};
use crate::{Machine, Recorder};

const CONVERTED: &str = "refs/convert/parquet";

fn repo() -> Repo {
    Repo::dataset("org/d", &[("README.md", b"# d"), ("data/test-0.parquet", b"rows"), ("data/train-0.parquet", b"more rows")])
}

fn parquet_of(split: &'static str) -> impl Fn(&[String]) -> Vec<String> {
    move |names| names.iter().filter(|name| name.contains(split) && name.ends_with(".parquet")).cloned().collect()
}

fn get(machine: &Machine, revision: Option<&str>, split: &'static str) -> Result<DatasetFiles> {
    machine.hub().dataset("org/d", revision, &parquet_of(split), &Silent)
}

#[test]
fn fetched_once_then_from_the_cache() {
    let repo = repo();
    let server = Server::start(move |request| repo.answer(request));
    let mut machine = Machine::new(&server.url);
    let root = machine.config.hub_cache.join("datasets--org--d");
    let found = get(&machine, None, "test").unwrap();
    assert_eq!((found.commit.as_str(), found.files.as_slice()), (COMMIT, &["data/test-0.parquet".to_owned()][..]));
    assert_eq!(found.dir, root.join("snapshots").join(COMMIT));
    assert_eq!(fs::read(found.dir.join(&found.files[0])).unwrap(), b"rows");
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    assert_eq!(crate::names(&root.join("blobs")), [sha256(b"rows")], "the other split is left where it is");
    assert!(server.requests()[0].path.starts_with("/api/datasets/org/d/revision/main"));

    // Again: one look at the branch. Pinned: not even that.
    let before = server.requests().len();
    assert_eq!(get(&machine, None, "test").unwrap(), found);
    assert_eq!(server.requests().len(), before + 1);
    assert_eq!(get(&machine, Some(COMMIT), "test").unwrap(), found);
    assert_eq!(server.requests().len(), before + 1);

    // One and the same hub asks where a branch is once.
    let before = server.requests().len();
    let hub = machine.hub();
    for split in ["test", "nothing", "test"] {
        assert_eq!(hub.dataset("org/d", None, &parquet_of(split), &Silent).unwrap().commit, COMMIT);
    }
    assert_eq!(server.requests().len(), before + 1);

    machine.config.offline = true;
    assert_eq!(get(&machine, None, "test").unwrap(), found);
    let error = get(&machine, None, "train").unwrap_err();
    assert!(matches!(error, Error::OfflineDataset { .. }) && error.to_string().contains("data set org/d"), "{error}");
    assert_eq!(machine.hub().cached_dataset("org/d", None, &parquet_of("train")), None);
    assert_eq!(machine.hub().cached_dataset("org/d", Some("v2"), &parquet_of("test")), None);

    // A hub that is gone is the same, with a word about it.
    machine.config.offline = false;
    machine.config.endpoint = "http://hub.invalid".to_owned();
    let recorder = Recorder::default();
    assert_eq!(machine.hub().dataset("org/d", None, &parquet_of("test"), &recorder).unwrap(), found);
    assert!(recorder.lines()[0].contains("using org/d as it is in the cache"), "{:?}", recorder.lines());
}

#[test]
fn a_branch_with_slashes_and_one_that_moves() {
    let converted = Repo { commit: NEXT_COMMIT, ..Repo::dataset("org/d", &[("default/test/0000.parquet", b"converted")]) };
    let main = repo();
    let server =
        Server::start(move |request| match request.path.contains("refs%2Fconvert") || request.path.contains(NEXT_COMMIT) {
            true => converted.answer(request),
            false => main.answer(request),
        });
    let mut machine = Machine::new(&server.url);
    let found = get(&machine, Some(CONVERTED), "test").unwrap();
    assert_eq!((found.commit.as_str(), found.files[0].as_str()), (NEXT_COMMIT, "default/test/0000.parquet"));
    assert_eq!(fs::read(found.dir.join(&found.files[0])).unwrap(), b"converted");
    // The layout of the other hub clients.
    let noted = machine.config.hub_cache.join("datasets--org--d/refs/refs/convert/parquet");
    assert_eq!(fs::read_to_string(noted).unwrap(), NEXT_COMMIT);
    assert_eq!(get(&machine, None, "test").unwrap().commit, COMMIT);
    machine.config.offline = true;
    assert_eq!(get(&machine, Some(CONVERTED), "test").unwrap(), found);
    assert_eq!(get(&machine, Some(NEXT_COMMIT), "test").unwrap(), found);
}

#[test]
fn choosing_nothing_leaves_nothing() {
    let repo = repo();
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let found = get(&machine, None, "no such split").unwrap();
    assert_eq!((found.commit.as_str(), found.files.len()), (COMMIT, 0));
    assert!(!machine.config.hub_cache.exists());
}

#[test]
fn a_cache_of_another_program() {
    let repo = repo();
    let server = Server::start(move |request| repo.answer(request));
    let mut machine = Machine::new(&server.url);
    let found = get(&machine, None, "test").unwrap();
    fs::remove_dir_all(machine.config.hub_cache.join("datasets--org--d/.solarium")).unwrap();
    machine.config.offline = true;
    assert_eq!(get(&machine, None, "test").unwrap(), found);
    assert!(get(&machine, None, "train").is_err());
}

#[test]
fn what_the_hub_refuses() {
    let refused = |reply: Reply, revision: Option<&str>| {
        let server = Server::start(move |_| reply.clone());
        let machine = Machine::new(&server.url);
        let error = get(&machine, revision, "test").unwrap_err();
        assert!(!machine.config.hub_cache.exists(), "nothing is left behind");
        error
    };
    let error = refused(Reply::status(401).header("X-Error-Code", "GatedRepo"), None);
    assert!(matches!(&error, Error::Gated { page, .. } if page.ends_with("/datasets/org/d")), "{error}");
    assert!(matches!(refused(Reply::status(403), None), Error::Gated { .. }));
    assert!(matches!(refused(Reply::status(401), None), Error::NoAccess { .. }));
    assert!(matches!(refused(Reply::status(404), None), Error::RepoNotFound { .. }));
    assert!(matches!(refused(Reply::status(404), Some("v7")), Error::RevisionNotFound { .. }));

    let machine = Machine::new("http://hub.invalid");
    for (repo, revision) in [("d", None), ("../d", None), ("org/d", Some("../../x")), ("org/d", Some("a b"))] {
        let error = machine.hub().dataset(repo, revision, &parquet_of("test"), &Silent).unwrap_err();
        assert!(matches!(error, Error::BadDataset { .. }), "{error}");
    }
}

/// A gated repository lists its files for everyone, and gives them to nobody without a token.
#[test]
fn gated_at_the_file() {
    let repo = repo();
    let server = Server::start(move |request| match request.headers.contains_key("authorization") {
        false if request.path.contains("/resolve/") => Reply::status(401).header("X-Error-Code", "GatedRepo"),
        _ => repo.answer(request),
    });
    let mut machine = Machine::new(&server.url);
    assert!(matches!(get(&machine, None, "test"), Err(Error::Gated { .. })));
    assert!(!machine.config.hub_cache.exists());
    machine.config.token = Some("t".to_owned());
    assert!(get(&machine, None, "test").is_ok());
}

/// Models are models: the same name as a data set's is not confused with it.
#[test]
fn list_and_remove_pass_it_over() {
    let (data, model) = (repo(), Repo::new("org/d", &[("m.gguf", b"weights")]));
    let server = Server::start(move |request| match request.path.contains("/datasets/") {
        true => data.answer(request),
        false => model.answer(request),
    });
    let machine = Machine::new(&server.url);
    let found = get(&machine, None, "test").unwrap();
    assert!(machine.hub().list().unwrap().is_empty());
    let reference = ModelRef::parse("org/d").unwrap();
    assert!(matches!(machine.hub().remove(&reference), Err(Error::NotCached { .. })));
    assert_eq!(machine.hub().cached(&reference), None);

    machine.resolve("org/d").unwrap();
    assert_eq!(machine.hub().list().unwrap().len(), 1);
    machine.hub().remove(&reference).unwrap();
    assert!(machine.hub().list().unwrap().is_empty());
    assert_eq!(get(&machine, None, "test").unwrap(), found);
    assert!(found.dir.join(&found.files[0]).is_file());
}
