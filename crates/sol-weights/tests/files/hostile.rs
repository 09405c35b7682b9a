//! Files that lie: each is refused with an error that names the place, at once and without panic.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::build::{Gguf, safetensors_file};
use sol_weights::{Checkpoint, Error};

/// Opens a file of these bytes under this name and checks that the refusal names the file and all of `mentions`.
#[track_caller]
fn refused(name: &str, bytes: &[u8], mentions: &[&str]) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    refused_path(&path, name, mentions)
}

#[track_caller]
fn refused_path(path: &Path, names: &str, mentions: &[&str]) -> Error {
    let start = Instant::now();
    let error = Checkpoint::open(path).expect_err("it must be refused");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let message = error.to_string();
    for mention in mentions.iter().chain([&names]) {
        assert!(message.contains(mention), "`{mention}` is not in: {message}");
    }
    error
}

#[test]
fn what_is_not_a_gguf_file() {
    refused("a.gguf", b"", &["empty"]);
    refused("a.gguf", b"PK\x03\x04 a zip file, perhaps", &["begins with the letters GGUF"]);
    refused("a.gguf", b"GG", &["begins with the letters GGUF"]);
    refused("a.bin", b"neither one nor the other", &["neither"]);
    refused("a.bin", b"", &["neither"]);
    let mut big_endian = Gguf::new().bytes();
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    refused("a.gguf", &big_endian, &["big endian"]);
    refused("a.gguf", &Gguf { version: 1, ..Gguf::new() }.bytes(), &["version 1", "convert"]);
    refused("a.gguf", &Gguf { version: 4, ..Gguf::new() }.bytes(), &["version 4"]);
}

#[test]
fn every_truncation_of_a_gguf_file() {
    let whole = Gguf::small().bytes();
    assert!(open_bytes("a.gguf", &whole).is_ok());
    for len in 0..whole.len() {
        let error = open_bytes("a.gguf", &whole[..len]).expect_err("a part is not the whole");
        assert!(matches!(error, Error::Truncated { .. } | Error::NotACheckpoint { .. }), "{len}: {error}");
    }
}

#[test]
fn version_2_is_read_too() {
    let file = open_bytes("a.gguf", &Gguf { version: 2, ..Gguf::small() }.bytes()).unwrap();
    assert_eq!(file.tensor("b").unwrap().to_f32().unwrap(), [1.0; 4]);
}

#[test]
fn counts_and_lengths_past_the_file() {
    for huge in [1 << 63, u64::MAX, u64::MAX / 8, 1 << 40] {
        refused("a.gguf", &Gguf { tensor_count: Some(huge), ..Gguf::new() }.bytes(), &["tensors are more than any model has"]);
        refused("a.gguf", &Gguf { entry_count: Some(huge), ..Gguf::new() }.bytes(), &["metadata entries are more than any"]);
        let length = huge.to_le_bytes();
        refused("a.gguf", &Gguf::new().entry("k", 8, &length).bytes(), &["metadata key `k`", "ends inside"]);
        for kind in 0..=12u32 {
            let array = [&kind.to_le_bytes()[..], &length].concat();
            refused("a.gguf", &Gguf::new().entry("k", 9, &array).bytes(), &["metadata key `k`", "ends inside"]);
        }
        let mut key = Gguf { entry_count: Some(1), ..Gguf::new() }.bytes();
        key.extend(length);
        refused("a.gguf", &key, &["metadata entry 1", "ends inside"]);
        refused("a.gguf", &Gguf::new().tensor("t", &[huge, huge], 0, 0).bytes(), &["tensor `t`", "too big"]);
        refused("a.gguf", &Gguf::new().tensor("t", &[0, huge, huge], 0, 0).bytes(), &["tensor `t`", "too big"]);
        refused("a.gguf", &Gguf::new().tensor("t", &[huge & !31], 0, 0).bytes(), &["tensor `t`"]);
        refused("a.gguf", &Gguf::new().tensor("t", &[4], 0, huge & !31).data(64).bytes(), &["tensor `t`", "ends inside"]);
    }
}

#[test]
fn a_header_without_end() {
    // Zeros (a sparse file) that claim to be empty strings: 24 bytes of memory for 8 of the file.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.gguf");
    let strings = |count: u64| [&8u32.to_le_bytes()[..], &count.to_le_bytes()].concat();
    let check = |file: Gguf, mention: &str| {
        fs::write(&path, file.bytes()).unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_len(300 << 20).unwrap();
        refused_path(&path, "a.gguf", &["`k`", mention]);
    };
    check(Gguf::new().entry("k", 9, &strings(64 << 17)), "the header goes on past 64 MiB");
    check(Gguf::new().entry("k", 9, &strings(32 << 17)), "with its 4194304 elements");
    // The most that is read, and then the key `` three times.
    let most = Gguf { entry_count: Some(4), ..Gguf::new() }.entry("k", 9, &strings(2 << 20));
    fs::write(&path, most.bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(300 << 20).unwrap();
    refused_path(&path, "a.gguf", &["it is there twice"]);
}

#[test]
fn metadata_that_makes_no_sense() {
    refused("a.gguf", &Gguf::new().entry("k", 13, &[0; 8]).bytes(), &["`k`", "value type 13"]);
    refused("a.gguf", &Gguf::new().entry("k", 7, &[2]).bytes(), &["`k`", "boolean"]);
    refused("a.gguf", &Gguf::new().entry("k", 0, &[1]).entry("k", 0, &[1]).bytes(), &["`k`", "twice"]);
    refused("a.gguf", &Gguf::new().entry_bytes(b"\xff\xfe", 0, &[1]).bytes(), &["UTF-8"]);
    // Arrays in arrays in ... without end.
    let nested = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat().repeat(1000);
    refused("a.gguf", &Gguf::new().entry("k", 9, &nested).bytes(), &["`k`", "nested"]);
    for alignment in [0u32, 3, 48, u32::MAX] {
        let file = Gguf::new().entry("general.alignment", 4, &alignment.to_le_bytes()).bytes();
        refused("a.gguf", &file, &["`general.alignment`", "power of two"]);
    }
    refused("a.gguf", &Gguf::new().entry("general.alignment", 0x8, &[0; 8]).bytes(), &["power of two"]);
}

#[test]
fn a_value_cut_inside_a_character_is_no_reason_to_refuse() {
    let text = [&2u64.to_le_bytes()[..], b"a\xe2"].concat();
    open_bytes("a.gguf", &Gguf::new().entry("general.description", 8, &text).bytes()).unwrap();
}

#[test]
fn tensors_that_can_not_be() {
    let file = || Gguf::new().tensor("a", &[16], 0, 0);
    refused("a.gguf", &file().tensor("a", &[4], 0, 64).data(128).bytes(), &["tensor `a`", "twice"]);
    refused("a.gguf", &file().tensor("b", &[4], 0, 32).data(128).bytes(), &["tensor `a`", "overlaps", "`b`"]);
    refused("a.gguf", &file().tensor("b", &[4], 0, 0).data(128).bytes(), &["overlaps"]);
    refused("a.gguf", &file().tensor("b", &[4], 99, 0).data(128).bytes(), &["overlaps"]);
    refused("a.gguf", &file().tensor("b", &[4], 0, 68).data(128).bytes(), &["tensor `b`", "alignment 32"]);
    refused("a.gguf", &file().tensor("b", &[17], 0, 64).data(128).bytes(), &["tensor `b`", "ends inside"]);
    refused("a.gguf", &file().tensor("b", &[100], 12, 64).data(512).bytes(), &["tensor `b`", "Q4_K"]);
    refused("a.gguf", &Gguf::new().tensor("t", &[1; 5], 0, 0).data(64).bytes(), &["tensor `t`", "5 dimensions"]);
    refused("a.gguf", &Gguf::new().tensor("t\u{1b}[31m", &[1; 5], 0, 0).bytes(), &["t\\u{1b}[31m"]);
}

#[test]
fn a_type_of_the_future_can_be_listed() {
    let file = Gguf::new().tensor("new", &[4], 99, 0).tensor("old", &[4], 0, 64).data(80).bytes();
    let file = open_bytes("a.gguf", &file).unwrap();
    let new = file.tensor("new").unwrap();
    assert_eq!((new.byte_len(), new.shape.as_slice()), (64, [4].as_slice()));
    assert!(new.to_f32().unwrap_err().to_string().contains("GGML type 99"));
    assert_eq!(file.tensor("old").unwrap().to_f32().unwrap(), [1.0; 4]);
}

#[test]
fn splits_that_do_not_fit_together() {
    let part = |number: u16, count: u16, tensors: i32, name: &str| {
        Gguf::new()
            .entry("split.no", 2, &number.to_le_bytes())
            .entry("split.count", 2, &count.to_le_bytes())
            .entry("split.tensors.count", 5, &tensors.to_le_bytes())
            .tensor(name, &[4], 0, 0)
            .data(16)
            .bytes()
    };
    let first = "m-00001-of-00002.gguf";
    let check = |files: &[(&str, Vec<u8>)], mentions: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in files {
            fs::write(dir.path().join(name), bytes).unwrap();
        }
        refused_path(&dir.path().join(files[0].0), "m", mentions);
    };
    let second = |bytes: Vec<u8>| ("m-00002-of-00002.gguf", bytes);
    check(&[(first, part(0, 2, 2, "a"))], &["m-00002-of-00002.gguf are missing"]);
    check(&[("m-00001-of-65535.gguf", part(0, 65535, 2, "a"))], &["missing", "and 65530 more"]);
    check(&[("m.gguf", part(0, 2, 2, "a"))], &["rename"]);
    check(&[("m-00001-of-00003.gguf", part(0, 2, 2, "a"))], &["rename"]);
    // The same part twice: it says that it is the first.
    check(&[(first, part(0, 2, 2, "a")), second(part(0, 2, 2, "a"))], &["part 2 of 2", "part 1 of 2"]);
    check(&[(first, part(1, 2, 2, "a")), second(part(0, 2, 2, "b"))], &["part 1 of 2", "part 2 of 2"]);
    check(&[(first, part(0, 2, 2, "a")), second(part(1, 3, 2, "b"))], &["part 2 of 2", "part 2 of 3"]);
    check(&[(first, part(0, 2, 2, "a")), second(Gguf::small().bytes())], &["not part of a set"]);
    check(&[(first, part(0, 2, 2, "a")), second(part(1, 2, 2, "a"))], &["tensor `a`", "another file"]);
    check(&[(first, part(0, 2, 7, "a")), second(part(1, 2, 7, "b"))], &["7 tensors", "have 2"]);
    check(&[(first, part(0, 2, 2, "a")), second(b"junk".to_vec())], &["m-00002-of-00002.gguf", "GGUF"]);
}

#[test]
fn safetensors_headers_that_lie() {
    let name = "a.safetensors";
    refused(name, b"", &["empty"]);
    refused(name, b"\x08\0\0", &["ends inside", "header"]);
    refused(name, &[&u64::MAX.to_le_bytes()[..], b"{}"].concat(), &["JSON object"]);
    refused(name, &[&(1u64 << 63).to_le_bytes()[..], b"{}"].concat(), &["JSON object"]);
    refused(name, &[&1000u64.to_le_bytes()[..], b"{}"].concat(), &["ends inside", "1008"]);
    refused(name, &[&4u64.to_le_bytes()[..], b"GGUF"].concat(), &["JSON object"]);
    let with = |json: &str, mentions: &[&str]| drop(refused(name, &safetensors_file(json, 16), mentions));
    with("{", &["JSON header"]);
    with("{}x", &["JSON header"]);
    with(&"{\"a\":".repeat(10_000), &["JSON header"]);
    with(r#"{"a":{"dtype":"F32","shape":[4]}}"#, &["tensor `a`", "data_offsets"]);
    with(r#"{"a":{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}}"#, &["tensor `a`"]);
    with(r#"{"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,16]}}"#, &["tensor `a`"]);
    with(r#"{"a":{"dtype":"F4","shape":[32],"data_offsets":[0,16]}}"#, &["tensor `a`", "F4", "convert"]);
    with(r#"{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,16]}}"#, &["tensor `a`", "16 bytes"]);
    with(r#"{"a":{"dtype":"F32","shape":[5],"data_offsets":[0,20]}}"#, &["tensor `a`", "ends inside"]);
    with(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[16,0]}}"#, &["tensor `a`", "out of order"]);
    with(r#"{"a":{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551615,18446744073709551615]}}"#, &["tensor `a`"]);
    with(r#"{"a":{"dtype":"F32","shape":[0,9223372036854775808,2],"data_offsets":[0,0]}}"#, &["tensor `a`"]);
    with(r#"{"a":{"dtype":"F32","shape":[9223372036854775808,2],"data_offsets":[0,16]}}"#, &["tensor `a`"]);
    with(
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        &["tensor `a`", "twice"],
    );
    with(
        r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#,
        &["tensor `a`", "overlaps", "`b`"],
    );
}

/// A directory with an index of this weight map and two shards holding `a` and `b`.
fn sharded(weight_map: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    for (file, tensor) in [("model-00001-of-00002.safetensors", "a"), ("model-00002-of-00002.safetensors", "b")] {
        let json = format!(r#"{{"{tensor}":{{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}}}"#);
        fs::write(dir.path().join(file), safetensors_file(&json, 16)).unwrap();
    }
    let index = dir.path().join("model.safetensors.index.json");
    fs::write(&index, format!(r#"{{"metadata":{{}},"weight_map":{weight_map}}}"#)).unwrap();
    (dir, index)
}

#[test]
fn a_sharded_checkpoint_opens_from_index_shard_and_directory() {
    let (dir, index) = sharded(r#"{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors"}"#);
    fs::write(dir.path().join("config.json"), r#"{"model_type":"llama"}"#).unwrap();
    let shard = dir.path().join("model-00002-of-00002.safetensors");
    for path in [dir.path(), &index, &shard] {
        let checkpoint = Checkpoint::open(path).unwrap();
        assert_eq!((checkpoint.tensors().len(), checkpoint.files().len()), (2, 2));
        assert_eq!(checkpoint.tensor("b").unwrap().path(), shard);
        let sol_weights::Metadata::Hf(metadata) = checkpoint.metadata() else { panic!() };
        assert_eq!(metadata.config["model_type"], "llama");
        assert!(metadata.generation_config.is_none());
    }
    fs::write(dir.path().join("config.json"), "{").unwrap();
    refused_path(dir.path(), "config.json", &["not JSON"]);
}

#[test]
fn indexes_that_lie() {
    let check = |weight_map: &str, mentions: &[&str]| {
        let (_dir, index) = sharded(weight_map);
        refused_path(&index, "", mentions);
    };
    for file in ["../model.safetensors", "/etc/passwd", "..", ".", "", "sub/x.safetensors", "c:\\\\x", "a\\u0000b"] {
        check(&format!(r#"{{"a":"{file}"}}"#), &["index.json", "tensor `a`", "plain file name"]);
    }
    check(r#"{"a":"model-00009-of-00002.safetensors"}"#, &["`model-00009-of-00002.safetensors`, which is missing"]);
    check(r#"{"b":"model-00001-of-00002.safetensors"}"#, &["tensor `b`", "does not have it"]);
    check(r#"{"a":1}"#, &["the index"]);
    check("{}", &["no tensors"]);
    check("[]", &["the index"]);
    check(r#"{"a":"model.safetensors.index.json"}"#, &["safetensors file begins"]);
}

#[test]
fn directories_that_hold_no_one_model() {
    let check = |files: &[&str], mentions: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            fs::write(dir.path().join(file), Gguf::small().bytes()).unwrap();
        }
        refused_path(dir.path(), "not a checkpoint", mentions);
    };
    check(&[], &["no .safetensors and no .gguf"]);
    check(&["pytorch_model.bin"], &["pickles", "safetensors"]);
    check(&["a.gguf", "b.gguf"], &["a.gguf, b.gguf", "name the file"]);
    refused_path(Path::new("/does/not/exist"), "/does/not/exist", &["can not open"]);
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("only.gguf"), Gguf::small().bytes()).unwrap();
    assert_eq!(Checkpoint::open(dir.path()).unwrap().tensors().len(), 2);
}

#[test]
fn writing_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("no/such/dir/out.safetensors");
    assert!(matches!(sol_weights::safetensors::write(&missing, &[]), Err(Error::Io { .. })));
    let path = dir.path().join("out.safetensors");
    fs::create_dir(&path).unwrap();
    assert!(sol_weights::safetensors::write(&path, &[]).is_err(), "a directory is in the way");
    let wrong = sol_weights::safetensors::write(&path, &[("a", sol_weights::DType::F32, &[2], &[0; 4])]);
    assert!(matches!(wrong, Err(Error::Length { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

fn open_bytes(name: &str, bytes: &[u8]) -> Result<Checkpoint, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    fs::write(&path, bytes).unwrap();
    Checkpoint::open(&path)
}
