//! Looking at a model without fetching its weights.

use std::fs;
use std::path::PathBuf;

use sol_hub::{Error, ModelRef, Result, Silent};

use crate::server::{Repo, Server};
use crate::{Machine, names};

/// Safetensors with a header of `header` and far more data than that.
fn weights(header: &str) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + (1 << 20), 7);
    bytes
}

fn outline(machine: &Machine, model: &str) -> Result<PathBuf> {
    let dir = machine.dir.path().join("outline");
    machine.hub().outline(&ModelRef::parse(model).unwrap(), &dir, &Silent)
}

#[test]
fn weights_are_holes_of_their_size() {
    let (first, second) = (weights("{first}"), weights("{second header}"));
    let index = br#"{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}}"#;
    let files: [(&str, &[u8]); 5] = [
        ("config.json", b"{\"hidden_size\": 5120}"),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", &first),
        ("model-00002-of-00002.safetensors", &second),
        ("README.md", b"not needed"),
    ];
    let repo = Repo::new("org/m", &files);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let dir = outline(&machine, "org/m").unwrap();
    let mut expected: Vec<_> = files[..4].iter().map(|(name, _)| (*name).to_owned()).collect();
    expected.sort();
    assert_eq!(names(&dir), expected);
    assert_eq!(fs::read(dir.join("config.json")).unwrap(), files[0].1);
    for (name, body, header) in [(files[2].0, &first, 8 + 7), (files[3].0, &second, 8 + 15)] {
        let got = fs::read(dir.join(name)).unwrap();
        assert_eq!((got.len(), &got[..header]), (body.len(), &body[..header]));
        assert!(got[header..].iter().all(|byte| *byte == 0));
    }
    // Nothing of it is taken for the model later.
    assert!(machine.hub().cached(&ModelRef::parse("org/m").unwrap()).is_none());
}

#[test]
fn one_file_of_a_repository_has_an_outline_too() {
    let body = weights("{}");
    let repo = Repo::new("org/m", &[("config.json", b"{}"), ("other.safetensors", &body), ("model.safetensors", &body)]);
    let server = Server::start(move |request| repo.answer(request));
    let machine = Machine::new(&server.url);
    let path = outline(&machine, "org/m:other.safetensors").unwrap();
    assert!(path.ends_with("other.safetensors") && path.parent().unwrap().join("config.json").exists());
}

#[test]
fn what_has_no_outline_is_refused() {
    let repo = Repo::new("org/g", &[("model.gguf", b"GGUF")]);
    let server = Server::start(move |request| repo.answer(request));
    let mut machine = Machine::new(&server.url);
    let message = outline(&machine, "org/g").unwrap_err().to_string();
    assert!(message.contains("sol pull org/g"), "{message}");
    assert!(outline(&machine, "org/none").unwrap_err().to_string().contains("org/none"));
    assert!(outline(&machine, "smollm2").is_err());
    machine.config.offline = true;
    assert!(matches!(outline(&machine, "org/g"), Err(Error::Offline { .. })));
}

#[test]
fn damaged_weights_are_told() {
    let mut endless = weights("{}");
    endless[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    for body in [endless, vec![1, 2, 3], 100u64.to_le_bytes().to_vec()] {
        let repo = Repo::new("org/m", &[("config.json", b"{}"), ("model.safetensors", &body)]);
        let server = Server::start(move |request| repo.answer(request));
        let message = outline(&Machine::new(&server.url), "org/m").unwrap_err().to_string();
        assert!(message.contains("model.safetensors"), "{message}");
    }
}
