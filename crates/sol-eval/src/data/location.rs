//! The `[data]` table of a task file.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Where a task's rows are.
///
/// ```toml
/// [data]
/// hub = "Rowan/hellaswag"
/// folder = "hellaswag"
/// splits = { train = ["train", "train_olmes"] }
/// columns = { validation = ["ctx_a", "ctx_b", "endings", "label"] }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// The hub's data set, `org/name`. Without one the rows are in `folder`, wherever other tasks' rows come from.
    pub hub: Option<String>,
    /// Which config of the data set; all rows where `None`.
    pub config: Option<String>,
    /// Branch, tag or commit of the hub's data set. Where `None`: the files of `main`, or, where those are none that can be
    /// read, the Parquet files that the hub makes of every data set (`refs/convert/parquet`).
    pub revision: Option<String>,
    /// The folder below `--data DIR`, or names to be tried in their order; the name in `hub` where it is missing.
    pub folder: Option<OneOrMore>,
    /// What files and the hub call a split, by the name that the task calls it; the same where it is missing.
    #[serde(default)]
    pub splits: BTreeMap<String, OneOrMore>,
    /// Whether the hub wants conditions accepted first.
    #[serde(default)]
    pub gated: bool,
    /// Columns that every row must have.
    #[serde(default)]
    pub columns: Columns,
}

/// One name, or several to be tried in their order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// Several.
    More(Vec<String>),
}

/// Columns that rows must have.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(untagged)]
pub enum Columns {
    /// In every split.
    All(Vec<String>),
    /// By the task's name of the split.
    BySplit(BTreeMap<String, Vec<String>>),
}

impl Default for Columns {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

impl OneOrMore {
    /// The names.
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::More(names) => names,
        }
    }
}

impl Location {
    /// What a person calls the data set.
    pub fn name(&self) -> String {
        self.folders().into_iter().next().unwrap_or("(neither hub nor folder)").to_owned()
    }

    /// Folders to look in.
    pub fn folders(&self) -> Vec<&str> {
        match (&self.folder, &self.hub) {
            (Some(folder), _) => folder.names().iter().map(String::as_str).collect(),
            (None, Some(hub)) => vec![hub.rsplit('/').next().unwrap_or(hub)],
            (None, None) => Vec::new(),
        }
    }

    /// Names of a split to look for, in this order; one that is only a part of its split comes after the whole.
    pub fn stems(&self, split: &str) -> Vec<String> {
        let names = match self.splits.get(split) {
            Some(names) => names.names().to_vec(),
            None => vec![split.to_owned()],
        };
        names.into_iter().flat_map(|name| [name.clone(), format!("{name}.partial")]).collect()
    }

    /// Columns that rows of a split must have.
    pub fn columns_of(&self, split: &str) -> &[String] {
        match &self.columns {
            Columns::All(columns) => columns,
            Columns::BySplit(splits) => splits.get(split).map_or(&[], Vec::as_slice),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_task_file() {
        let text = r#"
            hub = "TAUR-Lab/MuSR"
            folder = "musr"
            splits = { test = "murder_mysteries", train = ["train", "train_olmes"] }
            columns = { test = ["narrative"] }
        "#;
        let location: Location = toml::from_str(text).unwrap();
        assert_eq!(location.stems("test"), ["murder_mysteries", "murder_mysteries.partial"]);
        assert_eq!(location.stems("train"), ["train", "train.partial", "train_olmes", "train_olmes.partial"]);
        assert_eq!(location.stems("dev"), ["dev", "dev.partial"]);
        assert_eq!(location.columns_of("test"), ["narrative"]);
        assert!(location.columns_of("train").is_empty() && !location.gated);
        assert_eq!(location.name(), "musr");

        let location: Location = toml::from_str("hub = \"a/b\"\ncolumns = [\"x\"]\nfolder = [\"p\", \"q\"]").unwrap();
        assert_eq!((location.columns_of("any"), location.folders()), (&["x".to_owned()][..], vec!["p", "q"]));
        let location: Location = toml::from_str("hub = \"a/b\"").unwrap();
        assert_eq!(location.folders(), ["b"]);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = toml::from_str::<Location>("hub = \"a/b\"\nfoldr = \"b\"").unwrap_err().to_string();
        assert!(error.contains("foldr"), "{error}");
        assert!(toml::from_str::<Location>("hub = 1").is_err());
        assert!(toml::from_str::<Location>("columns = 1").is_err());
    }
}
