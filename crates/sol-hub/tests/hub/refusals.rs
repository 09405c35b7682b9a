//! What cannot be had: each with a message that says what to do, and at once.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use crate::Machine;
use crate::server::{Reply, Repo, Server};

/// The message when the hub answers everything alike.
fn refused(reply: Reply, token: Option<&str>, model: &str) -> String {
    let server = Server::start(move |_| reply.clone());
    let mut machine = Machine::new(&server.url);
    machine.config.token = token.map(str::to_owned);
    let error = machine.fail(model);
    assert!(!machine.config.hub_cache.exists(), "nothing is left behind");
    error
}

#[test]
fn what_the_hub_refuses() {
    let with_code = |status: u16, code: &str| Reply::status(status).header("X-Error-Code", code);
    let error = refused(with_code(401, "GatedRepo"), None, "org/m");
    assert!(error.contains("org/m is gated: accept its licence at http") && error.contains("HF_TOKEN"), "{error}");
    let error = refused(Reply::status(403).header("X-Error-Message", "Ask the author"), Some("t"), "org/m");
    assert!(error.contains("licence") && error.contains("HF_TOKEN") && error.contains("Ask the author"), "{error}");
    let error = refused(Reply::status(401), None, "org/m");
    assert!(error.contains("does not exist") && error.contains("licence") && error.contains("HF_TOKEN"), "{error}");
    for reply in [Reply::status(404), with_code(404, "RepoNotFound")] {
        let error = refused(reply, None, "org/m");
        assert!(error.contains("no repository org/m"), "{error}");
    }
    for reply in [Reply::status(404), with_code(404, "RevisionNotFound")] {
        let error = refused(reply, None, "org/m@v7");
        assert!(error.contains("no revision 'v7'"), "{error}");
    }
    let error = refused(Reply::status(500), None, "org/m");
    assert!(error.contains("answered 500"), "{error}");
    let error = refused(Reply::status(429).header("Retry-After", "3600"), None, "org/m");
    assert!(error.contains("busy") && error.contains("3600 s"), "{error}");
    let error = refused(Reply::body("<html>a login page</html>"), None, "org/m");
    assert!(error.contains("does not answer as a hub"), "{error}");
    let error = refused(Reply::status(302).header("Location", "/again"), None, "org/m");
    assert!(error.contains("redirects"), "{error}");
}

#[test]
fn a_file_that_is_not_there() {
    let repo = Repo::new("org/m", &[("m-Q4_0.gguf", b"x"), ("m-Q8_0.gguf", b"y")]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let error = machine.fail("org/m:Q5_0");
    assert!(error.contains("no file 'Q5_0'; there are Q4_0, Q8_0"), "{error}");
    let error = machine.fail("org/m");
    assert!(error.contains("several models") && error.contains("org/m:Q4_0"), "{error}");
}

#[test]
fn hostile_listings_and_headers() {
    for name in ["../../.bashrc", "/etc/passwd", "a/../../b.gguf", "a\\..\\b.gguf", "C:x.gguf"] {
        let repo = Repo::new("org/m", &[("m.gguf", b"x"), (name, b"y")]);
        let server = Server::start(move |request| repo.answer(request));
        let machine = Machine::new(&server.url);
        let error = machine.fail("org/m");
        assert!(error.contains("would leave its directory"), "{name}: {error}");
        assert!(!machine.config.hub_cache.exists());
    }
    for etag in ["\"../../x\"", "\"\"", "\".lock\"", "\"a b\""] {
        let repo = Repo::new("org/m", &[("m.gguf", b"x")]);
        let server = Server::start(move |request| {
            let reply = repo.answer(request);
            if request.path.starts_with("/api/") { reply } else { reply.header("X-Linked-Etag", etag) }
        });
        let error = Machine::new(&server.url).fail("org/m");
        assert!(error.contains("cannot name a file"), "{etag}: {error}");
    }
    for sha in ["../..", "", "a/b"] {
        let server = Server::start(move |_| Reply::body(format!("{{\"sha\":\"{sha}\",\"siblings\":[]}}")));
        let error = Machine::new(&server.url).fail("org/m");
        assert!(error.contains("is no commit"), "{sha}: {error}");
    }
}

#[test]
fn no_server_is_noticed_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let machine = Machine::new(&format!("http://127.0.0.1:{port}"));
    let begin = Instant::now();
    let error = machine.fail("org/m");
    assert!(error.contains("cannot be reached: the connection was refused"), "{error}");
    assert!(error.contains("HF_ENDPOINT"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5));

    // RFC 6761: .invalid never resolves.
    let error = Machine::new("http://hub.invalid").fail("org/m");
    assert!(error.contains("cannot be reached"), "{error}");
}

#[test]
fn a_server_that_says_nothing() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let machine = Machine::new(&format!("http://{}", silent.local_addr().unwrap()));
    let begin = Instant::now();
    let error = machine.fail("org/m");
    assert!(error.contains("no answer within"), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(2), "one wait, no repetitions");
}

#[test]
fn offline_with_an_empty_cache() {
    let mut machine = Machine::new("http://hub.invalid");
    machine.config.offline = true;
    let error = machine.fail("org/m:Q4_0");
    assert!(error.contains("org/m:Q4_0 is not (completely) in the cache"), "{error}");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
}

#[test]
fn a_cache_that_cannot_be_written() {
    // Root may write anywhere: a file where a directory is needed is a cache nobody can write.
    let repo = Repo::new("org/m", &[("m.gguf", b"x")]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    fs::write(&machine.config.hub_cache, "a file").unwrap();
    let error = machine.fail("org/m");
    assert!(error.contains("the cache cannot be written") && error.contains("HF_HUB_CACHE"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_read_only_cache_can_be_read() {
    use std::os::unix::fs::PermissionsExt as _;
    let repo = Repo::new("org/m", &[("m-Q4_0.gguf", b"four"), ("m-Q8_0.gguf", b"eight")]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let path = machine.resolve("org/m:Q4_0").unwrap();
    let root = machine.repo_dir("org/m");
    let dirs = [root.clone(), root.join("blobs"), root.join("refs"), root.join("snapshots"), root.join(".solarium")];
    let set = |mode: u32| {
        for dir in dirs.iter().chain([&machine.config.hub_cache, &path.parent().unwrap().to_owned()]) {
            fs::set_permissions(dir, fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    set(0o555);
    assert_eq!(machine.resolve("org/m:Q4_0").unwrap(), path);
    if fs::write(root.join("probe"), "").is_ok() {
        eprintln!("skipped: this user may write to a read-only directory");
    } else {
        let error = machine.fail("org/m:Q8_0");
        assert!(error.contains("cannot be written"), "{error}");
    }
    set(0o755);
}
