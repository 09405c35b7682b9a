//! Parquet files against the rows that pyarrow reads from them (`xtools/eval_parquet_samples.py`).

use std::fs;

use serde_json::Value;

use crate::{rows, sample, write};

#[test]
fn as_pyarrow_reads_them() {
    for name in ["snappy", "zstd", "gzip", "plain", "delta", "dictionary", "others"] {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "d/test.parquet", fs::read(sample(&format!("{name}.parquet"))).unwrap());
        let found = rows(dir.path(), "folder = \"d\"", "test").unwrap();
        let expected: Vec<Value> = serde_json::from_slice(&fs::read(sample(&format!("{name}.json"))).unwrap()).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}");
        for (found, expected) in found.iter().zip(&expected) {
            // As texts: the order of columns counts, and 1 is not 1.0.
            assert_eq!(found.to_string(), expected.to_string(), "{name}");
        }
    }
}
