//! Files that are not as they should be: an error with file and line, never a panic.

use std::fs;

use proptest::prelude::*;
use sol_eval::Error;

use crate::{fail, rows, sample, write};

/// The message of a file with these contents, without its path.
fn told(name: &str, contents: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &format!("d/{name}"), contents);
    let error = fail(dir.path(), "folder = \"d\"\ncolumns = [\"q\"]", "test");
    assert!(matches!(error, Error::Data { .. }), "{error:?}");
    error.to_string().strip_prefix(&format!("{}", path.display())).unwrap_or_else(|| panic!("no path: {error}")).to_owned()
}

#[test]
fn broken_lines() {
    let jsonl = |text: &[u8]| told("test.jsonl", text);
    assert_eq!(jsonl(b"{\"q\":1}\n\n{\"q\":1,}"), ", line 3: no valid JSON: trailing comma (column 8)");
    assert_eq!(jsonl(b"{\"q\":1}\n{\"q\":"), ", line 2: no valid JSON: EOF while parsing a value (column 5)");
    assert_eq!(jsonl(b"{\"q\":NaN}"), ", line 1: no valid JSON: expected value (column 6)");
    assert_eq!(jsonl(b"{\"q\":1}\n7"), ", line 2: this is JSON, but no object");
    assert_eq!(jsonl(b"{\"q\":1}\n{\"q\":\"\xff\"}"), ", line 2: this is not UTF-8 (byte 7 of the line)");
    assert_eq!(jsonl(b"{\"q\":1}\n{\"a\":1,\"b\":2}"), ", line 2: there is no column 'q'; the columns are a, b");
    assert_eq!(jsonl(b"\n \n"), ": there are no rows in it");
    assert_eq!(jsonl(b""), ": there are no rows in it");
    assert_eq!(told("test.json", b"[{\"q\":1},\n7]"), ", line 2: this element of the array is no object");
    assert_eq!(told("test.json", b"[{\"q\":1},\n{\"q\" 1}]"), ", line 2: no valid JSON: expected `:` (column 6)");
    let deep = [vec![b'['; 100_000], vec![b']'; 100_000]].concat();
    assert!(jsonl(&[b"{\"q\":", deep.as_slice(), b"}"].concat()).contains("recursion limit"));
}

#[test]
fn broken_lines_of_several_configs() {
    let dir = tempfile::tempdir().unwrap();
    for (line, problem) in [
        ("{\"config\":\"y\"", "line 2: no valid JSON: EOF"),
        ("{\"n\":1}", "line 2: there is no column 'config', which the first row has"),
        ("{\"config\":1}", "line 2: no valid JSON: invalid type: integer"),
        ("[]", "line 2: this is JSON, but no object"),
    ] {
        write(dir.path(), "d/test.jsonl", format!("{{\"config\":\"x\"}}\n{line}\n"));
        let error = fail(dir.path(), "folder = \"d\"\nconfig = \"x\"", "test").to_string();
        assert!(error.contains(problem), "{error}");
    }
}

#[test]
fn cut_and_false_compression() {
    let dir = tempfile::tempdir().unwrap();
    let lines: String = (0..20_000_u64).map(|n| format!("{{\"q\":\"{:x}\"}}\n", n * n % 1_000_003)).collect();
    for name in ["d/test.jsonl.gz", "d/test.jsonl.zst"] {
        let path = write(dir.path(), name, &lines);
        assert_eq!(rows(dir.path(), "folder = \"d\"", "test").unwrap().len(), 20_000);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();
        let error = fail(dir.path(), "folder = \"d\"", "test");
        let Error::Data { line: Some(line), problem, .. } = &error else { panic!("{error}") };
        assert!(*line > 1000 && problem.contains("it was cut"), "{error}");
        fs::write(&path, &lines).unwrap();
        let error = fail(dir.path(), "folder = \"d\"", "test").to_string();
        assert!(error.contains("line 1: the file can not be read on"), "{error}");
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn broken_parquet() {
    let parquet = |bytes: &[u8]| told("test.parquet", bytes);
    assert!(parquet(b"").contains("no valid Parquet"));
    assert!(parquet(b"PAR1PAR1").contains("no valid Parquet"));
    assert_eq!(parquet(&fs::read(sample("empty.parquet")).unwrap()), ": there are no rows in it");
    let whole = fs::read(sample("snappy.parquet")).unwrap();
    assert!(parquet(&whole[..whole.len() / 2]).contains("no valid Parquet"));
    assert!(parquet(&whole).starts_with(", line 1: there is no column 'q'; the columns are id, question, answer"));
    // Good at its end, which is read first, and bad in its pages.
    let mut pages = whole.clone();
    pages[4..400].fill(0xff);
    let error = parquet(&pages);
    assert!(error.starts_with(", line 1: no valid Parquet"), "{error}");
}

fn read_parquet(bytes: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "d/test.parquet", bytes);
    let _ = rows(dir.path(), "folder = \"d\"", "test");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        ending in prop::sample::select(vec!["jsonl", "json", "parquet"]),
    ) {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &format!("d/test.{ending}"), &bytes);
        let _ = rows(dir.path(), "folder = \"d\"\nconfig = \"x\"", "test");
        for name in ["d/dev.jsonl.gz", "d/dev.jsonl.zst"] {
            let path = dir.path().join(name);
            fs::write(&path, &bytes).unwrap();
            let _ = rows(dir.path(), "folder = \"d\"", "dev");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn damaged_parquet(
        name in prop::sample::select(vec!["snappy", "zstd", "gzip", "plain", "delta", "dictionary"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = fs::read(sample(&format!("{name}.parquet"))).unwrap();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_parquet(&bytes);
    }

    /// The end of the file, where its schema is and all sizes are claimed.
    #[test]
    fn damaged_parquet_footer(
        name in prop::sample::select(vec!["snappy", "plain", "dictionary"]),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = fs::read(sample(&format!("{name}.parquet"))).unwrap();
        let end = bytes.len() - 8;
        let length = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
        for (at, byte) in damage {
            bytes[end - length + at.index(length)] = byte;
        }
        read_parquet(&bytes);
    }
}
