//! Rows of data sets, from JSON Lines in a folder: `DIR/<folder>/<split>.jsonl`, or `.jsonl.gz`, or `.jsonl.zst`.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{Error, Result};

/// Rows of a split, in their order. `names` are tried one after the other, each also as `<name>.partial`; of a file whose rows
/// have a column `config`, those of `config` are taken.
pub fn rows(dir: &Path, task: &str, folder: &str, names: &[String], config: Option<&str>) -> Result<Vec<Map<String, Value>>> {
    let places = [dir.join(folder), dir.to_owned()];
    let names: Vec<String> = names.iter().flat_map(|name| [name.clone(), format!("{name}.partial")]).collect();
    let endings = ["jsonl", "jsonl.gz", "jsonl.zst"];
    let files = places.iter().flat_map(|place| names.iter().flat_map(move |n| endings.map(|e| place.join(format!("{n}.{e}")))));
    let Some(file) = files.into_iter().find(|file| file.is_file()) else {
        let problem = format!("no {}.jsonl (or .jsonl.gz, .jsonl.zst) in {}", names[0], places[0].display());
        return Err(Error::NoData { task: task.into(), problem });
    };
    let rows = read(&file, config)?;
    if rows.is_empty() {
        return Err(Error::NoData { task: task.into(), problem: format!("{} has no rows for it", file.display()) });
    }
    Ok(rows)
}

fn read(file: &Path, config: Option<&str>) -> Result<Vec<Map<String, Value>>> {
    let io = |source| Error::Io { path: file.into(), source };
    let bytes = File::open(file).map_err(io)?;
    let reader: Box<dyn Read> = match file.extension().and_then(|e| e.to_str()) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        Some("zst") => Box::new(zstd::Decoder::new(bytes).map_err(io)?),
        _ => Box::new(bytes),
    };
    let mut rows = Vec::new();
    for (i, line) in BufReader::new(reader).lines().enumerate() {
        let broken = |problem| Error::Data { file: PathBuf::from(file), line: Some(i + 1), problem };
        let line = line.map_err(|e| broken(format!("can not be read: {e}")))?;
        if line.trim().is_empty() {
            continue;
        }
        let value = serde_json::from_str(&line).map_err(|e| broken(format!("is no JSON: {e}")))?;
        let Value::Object(mut row) = value else { return Err(broken("is no JSON object".into())) };
        if let Some(config) = config
            && let Some(of) = row.shift_remove("config")
            && of.as_str() != Some(config)
        {
            continue;
        }
        rows.push(row);
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_are_found_by_any_ending_and_broken_lines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let find = |names: &[&str], config| {
            let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
            rows(dir.path(), "t", "f", &names, config).map(|rows| rows.len()).map_err(|e| e.to_string())
        };
        assert!(find(&["test"], None).unwrap_err().contains("no test.jsonl"));
        std::fs::create_dir(dir.path().join("f")).unwrap();
        let text = b"{\"config\": \"a\", \"q\": 1}\n\n{\"config\": \"b\", \"q\": 2}\n";
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text).unwrap();
        let gz = gz.finish().unwrap();
        std::fs::write(dir.path().join("f/test.partial.jsonl.gz"), &gz).unwrap();
        assert_eq!(find(&["test"], Some("b")), Ok(1));
        assert!(find(&["test"], Some("c")).unwrap_err().contains("no rows"));
        std::fs::write(dir.path().join("f/other.jsonl.zst"), zstd::encode_all(&text[..], 1).unwrap()).unwrap();
        assert_eq!(find(&["none", "other"], None), Ok(2));
        std::fs::write(dir.path().join("f/cut.jsonl.gz"), &gz[..gz.len() - 12]).unwrap();
        assert!(find(&["cut"], None).unwrap_err().contains("line "));
        std::fs::write(dir.path().join("f/bad.jsonl"), "{}\n[1]\n").unwrap();
        assert!(find(&["bad"], None).unwrap_err().contains("bad.jsonl, line 2: is no JSON object"));
    }
}
