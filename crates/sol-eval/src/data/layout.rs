//! Which files of a data set hold a split, by their names alone: the same rules below a folder and in a repository of the hub.
//!
//! A split `test` is one of `test.jsonl` (`.gz`, `.zst`), `test.json`, `test.parquet`; the shards `test-00000-of-00002.parquet`
//! …, with or without the hash that older uploads have before the dot; or all of `test/0000.parquet` … as the hub converts
//! data sets. They lie at the top, in `data/`, or in a folder of the config's name.

use std::path::Path;

/// In the order of preference.
const ENDINGS: [&str; 8] = [".jsonl", ".jsonl.gz", ".jsonl.zst", ".json", ".json.gz", ".json.zst", ".parquet", ".ndjson"];

/// The hub's name for the only config of a data set without one.
const DEFAULT_CONFIG: &str = "default";

pub(super) fn is_parquet(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "parquet")
}

/// Where configs lie.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Configs {
    /// In a folder of their own, or marked in the rows of a common file.
    FoldersOrRows,
    /// In a folder of their own: what lies elsewhere is another config's.
    Folders,
}

/// Files that together are the first of the `stems` that is there, in the order of their rows. `names` are relative, with `/`.
pub(super) fn choose(names: &[String], stems: &[String], config: Option<&str>, configs: Configs) -> Option<Vec<String>> {
    let mut folders = Vec::new();
    if let Some(config) = config {
        folders.extend([format!("{config}/"), format!("data/{config}/")]);
    }
    if config.is_none_or(|config| config == DEFAULT_CONFIG) || configs == Configs::FoldersOrRows {
        folders.extend([String::new(), "data/".to_owned(), format!("{DEFAULT_CONFIG}/")]);
    }
    stems.iter().find_map(|stem| folders.iter().find_map(|folder| split_at(names, &format!("{folder}{stem}"))))
}

/// The files of the split whose names begin with `path`.
fn split_at(names: &[String], path: &str) -> Option<Vec<String>> {
    let whole = ENDINGS.iter().map(|ending| format!("{path}{ending}")).find(|name| names.contains(name));
    if let Some(name) = whole {
        return Some(vec![name]);
    }
    let mut shards: Vec<(usize, usize, &String)> = names.iter().filter_map(|name| shard(name, path)).collect();
    shards.sort();
    if let Some(&(_, count, _)) = shards.first()
        && shards.len() == count
        && shards.iter().enumerate().all(|(at, shard)| (shard.0, shard.1) == (at, count))
    {
        return Some(shards.into_iter().map(|shard| shard.2.clone()).collect());
    }
    // Converted ones do not say how many they are.
    let mut parts: Vec<(usize, &String)> = names.iter().filter_map(|name| part(name, path)).collect();
    parts.sort();
    let gapless = parts.iter().enumerate().all(|(at, part)| part.0 == at);
    (!parts.is_empty() && gapless).then(|| parts.into_iter().map(|part| part.1.clone()).collect())
}

/// `<path>-00000-of-00002.parquet`: number and count.
fn shard<'a>(name: &'a String, path: &str) -> Option<(usize, usize, &'a String)> {
    let rest = name.strip_prefix(path)?.strip_prefix('-')?;
    let rest = ENDINGS.iter().find_map(|ending| rest.strip_suffix(ending))?;
    let (number, rest) = rest.split_once("-of-")?;
    let count = rest.split('-').next()?;
    Some((digits(number)?, digits(count)?, name))
}

/// `<path>/0000.parquet`: number.
fn part<'a>(name: &'a String, path: &str) -> Option<(usize, &'a String)> {
    let number = name.strip_prefix(path)?.strip_prefix('/')?.strip_suffix(".parquet")?;
    Some((digits(number)?, name))
}

fn digits(text: &str) -> Option<usize> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(names: &[&str], stems: &[&str], config: Option<&str>, configs: Configs) -> Vec<String> {
        let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        choose(&own(names), &own(stems), config, configs).unwrap_or_default()
    }

    #[test]
    fn layouts_of_the_hub() {
        let hub = |names: &[&str], config| chosen(names, &["test"], config, Configs::Folders);
        // TIGER-Lab/MMLU-Pro
        let own = ["README.md", "data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet"];
        assert_eq!(hub(&own, None), ["data/test-00000-of-00001.parquet"]);
        assert_eq!(hub(&own, Some("default")), ["data/test-00000-of-00001.parquet"]);
        assert!(hub(&own, Some("other")).is_empty());
        // openai/gsm8k
        let configs =
            ["main/test-00000-of-00001.parquet", "main/train-00000-of-00001.parquet", "socratic/test-00000-of-00001.parquet"];
        assert_eq!(hub(&configs, Some("main")), ["main/test-00000-of-00001.parquet"]);
        assert!(hub(&configs, None).is_empty());
        // refs/convert/parquet
        let converted =
            ["default/test/0001.parquet", "default/test/0000.parquet", "x/partial-test/0000.parquet", "y/test/0001.parquet"];
        assert_eq!(hub(&converted, None), ["default/test/0000.parquet", "default/test/0001.parquet"]);
        assert!(hub(&converted, Some("x")).is_empty() && hub(&converted, Some("y")).is_empty());
        // Uploads with hashes, and shards that are not all there.
        let hashed = ["data/test-00001-of-00002-0a1b.parquet", "data/test-00000-of-00002-2c3d.parquet"];
        assert_eq!(hub(&hashed, None), ["data/test-00000-of-00002-2c3d.parquet", "data/test-00001-of-00002-0a1b.parquet"]);
        assert!(hub(&hashed[..1], None).is_empty());
        assert!(hub(&["mmlu.py", "data.tar", "test.csv", "data/test_old.parquet"], None).is_empty());
    }

    #[test]
    fn layouts_of_a_folder() {
        let folder = |names: &[&str], stems: &[&str], config| chosen(names, stems, config, Configs::FoldersOrRows);
        assert_eq!(folder(&["test.jsonl.gz", "test.parquet"], &["test"], Some("anatomy")), ["test.jsonl.gz"]);
        let both = ["anatomy/test.parquet", "test.jsonl"];
        assert_eq!(folder(&both, &["test"], Some("anatomy")), ["anatomy/test.parquet"]);
        assert_eq!(folder(&both, &["test"], Some("astronomy")), ["test.jsonl"]);
        let stems = ["train", "train.partial", "train_olmes"];
        assert_eq!(folder(&["train_olmes.jsonl.zst"], &stems, None), ["train_olmes.jsonl.zst"]);
        assert_eq!(folder(&["train.partial.jsonl", "train_olmes.jsonl"], &stems, None), ["train.partial.jsonl"]);
        assert!(
            folder(&["testing.jsonl", "test.txt", "test", "test-a-of-b.parquet", "test-.parquet"], &["test"], None).is_empty()
        );
    }
}
