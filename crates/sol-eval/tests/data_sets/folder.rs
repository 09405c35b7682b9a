//! Where files are looked for below a folder, and what is taken of them.

use std::sync::Mutex;

use sol_eval::Error;
use sol_eval::data::Source;
use sol_hub::{Progress, Silent};

use crate::{fail, location, sample, texts, write};

const ROWS: &str = "{\"q\": \"é\", \"a\": 1}\r\n\n  \n{\"a\":2.5,\"q\":null}";
const EXPECTED: [&str; 2] = [r#"{"q":"é","a":1}"#, r#"{"a":2.5,"q":null}"#];

#[test]
fn every_form_of_json() {
    for name in ["test.jsonl", "test.jsonl.gz", "test.jsonl.zst", "test.json", "test.ndjson"] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &format!("d/{name}"), ROWS);
        assert_eq!(texts(dir.path(), "folder = \"d\"", "test"), EXPECTED, "{name}");
        write(dir.path(), &format!("d/{name}"), format!("\u{feff}{ROWS}\n"));
        assert_eq!(texts(dir.path(), "folder = \"d\"", "test"), EXPECTED, "{name}");
    }
    for array in ["[{\"q\":\"é\",\"a\":1},{\"a\":2.5,\"q\":null}]", "[\n {\"q\": \"é\",\n \"a\":1}\n,{\"a\":2.5,\"q\":null}]\n"]
    {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "d/test.json.gz", array);
        assert_eq!(texts(dir.path(), "folder = \"d\"", "test"), EXPECTED);
    }
}

#[test]
fn gzip_of_several_members() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "d/test.jsonl.gz", "{\"a\":1}\n");
    let once = std::fs::read(&path).unwrap();
    std::fs::write(&path, [once.clone(), once].concat()).unwrap();
    assert_eq!(texts(dir.path(), "folder = \"d\"", "test"), [r#"{"a":1}"#; 2]);
}

#[test]
fn folders_and_names() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, "arc/test.jsonl", "{\"at\":\"arc\"}");
    write(root, "musr/murder.partial.jsonl", "{\"at\":\"partial\"}");
    write(root, "swag/train_olmes.jsonl", "{\"at\":\"olmes\"}");
    write(root, "gsm8k/main/test.jsonl", "{\"at\":\"main\"}");
    write(root, "gsm8k/socratic/test/0000.jsonl", "{\"at\":\"no\"}");
    assert_eq!(texts(root, "hub = \"allenai/arc\"", "test"), [r#"{"at":"arc"}"#]);
    assert_eq!(texts(root, "folder = [\"arc_challenge\", \"arc\"]", "test"), [r#"{"at":"arc"}"#]);
    assert_eq!(texts(root, "folder = \"musr\"\nsplits = { test = \"murder\" }", "test"), [r#"{"at":"partial"}"#]);
    let swag = "folder = \"swag\"\nsplits = { train = [\"train\", \"train_olmes\"] }";
    assert_eq!(texts(root, swag, "train"), [r#"{"at":"olmes"}"#]);
    write(root, "swag/train.jsonl", "{\"at\":\"hub\"}");
    assert_eq!(texts(root, swag, "train"), [r#"{"at":"hub"}"#]);
    assert_eq!(texts(root, "folder = \"gsm8k\"\nconfig = \"main\"", "test"), [r#"{"at":"main"}"#]);
    // DIR is the data set's own folder, by its name or, with a word about it, by what is in it.
    assert_eq!(texts(&root.join("arc"), "folder = \"arc\"", "test"), [r#"{"at":"arc"}"#]);
    let notes = Notes::default();
    Source::folder(root.join("arc")).rows(&location("folder = \"other\""), "test", &notes).unwrap();
    assert!(notes.0.lock().unwrap()[0].ends_with("test.jsonl: taken for the data of other"));
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Progress for Notes {
    fn start(&self, _: &str, _: Option<u64>, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self, _: &str) {}
    fn note(&self, message: &str) {
        self.0.lock().unwrap().push(message.to_owned());
    }
}

#[test]
fn parquet_as_the_hub_lays_it_out() {
    let parquet = std::fs::read(sample("delta.parquet")).unwrap();
    for name in
        ["main/test.parquet", "main/test-00000-of-00001.parquet", "main/test/0000.parquet", "data/test-00000-of-00001.parquet"]
    {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &format!("d/{name}"), &parquet);
        assert_eq!(texts(dir.path(), "folder = \"d\"\nconfig = \"main\"", "test").len(), 7, "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "d/main/test-00000-of-00002.parquet", &parquet);
    assert!(matches!(fail(dir.path(), "folder = \"d\"\nconfig = \"main\"", "test"), Error::NoData { .. }));
    write(dir.path(), "d/main/test-00001-of-00002.parquet", &parquet);
    assert_eq!(texts(dir.path(), "folder = \"d\"\nconfig = \"main\"", "test").len(), 14);
}

#[test]
fn configs_in_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let lines = r#"{"config":"x","n":1}
        {"config":"y","n":2}
        {"config":"x","n":3}"#;
    for name in ["test.jsonl", "test.jsonl.gz"] {
        write(dir.path(), &format!("d/{name}"), lines);
        let source = Source::folder(dir.path());
        let of = |config: &str| {
            let location = location(&format!("folder = \"d\"\nconfig = \"{config}\""));
            source.rows(&location, "test", &Silent).map(|rows| serde_json::to_string(&rows).unwrap())
        };
        assert_eq!(of("x").unwrap(), r#"[{"n":1},{"n":3}]"#);
        assert_eq!(of("y").unwrap(), r#"[{"n":2}]"#);
        let error = of("z").unwrap_err().to_string();
        assert!(error.ends_with("no row has the config 'z'; there are x, y"), "{error}");
        std::fs::remove_file(dir.path().join("d").join(name)).unwrap();
    }
    write(dir.path(), "d/test.jsonl", lines);
    assert_eq!(texts(dir.path(), "folder = \"d\"", "test")[1], r#"{"config":"y","n":2}"#);
    // The same in Parquet.
    write(dir.path(), "d/dev.parquet", std::fs::read(sample("dictionary.parquet")).unwrap());
    let rows = texts(dir.path(), "folder = \"d\"\nconfig = \"beta\"", "dev");
    assert_eq!((rows.len(), rows[0].as_str()), (100, r#"{"subject":"beta","answer":1}"#));
}

#[test]
fn what_is_missing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "d/dev.jsonl", "{}");
    let error = fail(dir.path(), "folder = \"d\"", "test").to_string();
    assert!(
        error.contains("data of task 'd' is missing") && error.contains("no test.jsonl") && error.contains("dev.jsonl"),
        "{error}"
    );
    let error = fail(dir.path(), "folder = \"e\"", "test").to_string();
    assert!(error.contains("nor a folder e"), "{error}");
    let error = fail(&dir.path().join("none"), "folder = \"d\"", "test").to_string();
    assert!(error.contains("none is no directory"), "{error}");
}

#[test]
fn where_rows_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), "d/test.jsonl", "abc");
    let origin = Source::folder(dir.path()).describe(&location("folder = \"d\""), "test", &Silent).unwrap();
    let expected = serde_json::json!({ "files": [{
        "path": path.to_str().unwrap(),
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }] });
    assert_eq!(serde_json::to_value(origin).unwrap(), expected);
}
