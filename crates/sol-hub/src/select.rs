//! Which files of a repository make the model.
//!
//! Pure: names in, names out. The same choice is made over the hub's listing and over what a cache
//! holds, so that a model resolves alike with and without a network.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// What a GGUF repository gives when nothing is said: small, and close to the original.
const PREFERRED_QUANT: &str = "Q4_K_M";

/// The files to have, and which path stands for the model.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Selection {
    /// Names in the repository.
    pub(crate) files: Vec<String>,
    /// The file to open; the snapshot directory where `None`.
    pub(crate) open: Option<String>,
    /// What was chosen on the person's behalf.
    pub(crate) note: Option<String>,
}

/// Chooses from the `names` of `repo`; `wanted` is what stood after the colon.
pub(crate) fn choose(repo: &str, names: &[String], wanted: Option<&str>) -> Result<Selection> {
    let groups = gguf_groups(names);
    match wanted {
        Some(wanted) if names.iter().any(|name| name == wanted) => {
            if let Some(group) = groups.iter().find(|group| group.files.iter().any(|file| file == wanted)) {
                return group.select(repo, None);
            }
            let whole = wanted.ends_with(".safetensors.index.json") || split_of(wanted, ".safetensors").is_some();
            if whole {
                return Ok(safetensors(names, |_| true, None));
            }
            if wanted.ends_with(".safetensors") {
                return Ok(safetensors(names, |name| name == wanted, Some(wanted)));
            }
            let one = wanted.to_owned();
            Ok(Selection { files: vec![one.clone()], open: Some(one), note: None })
        }
        Some(wanted) => {
            let hits: Vec<&Group> = groups.iter().filter(|group| group.is_quant(wanted)).collect();
            match hits.as_slice() {
                [] => Err(Error::FileNotFound {
                    repo: repo.to_owned(),
                    file: wanted.to_owned(),
                    available: available(&groups, names),
                }),
                [group] => group.select(repo, None),
                several => Err(Error::Ambiguous {
                    repo: repo.to_owned(),
                    choices: several.iter().map(|group| group.files[0].clone()).collect(),
                }),
            }
        }
        None if names.iter().any(|name| is_weights(name)) => Ok(safetensors(names, |_| true, None)),
        None => choose_gguf(repo, names, &groups),
    }
}

fn choose_gguf(repo: &str, names: &[String], groups: &[Group]) -> Result<Selection> {
    match groups {
        [] => Err(Error::NoWeights { repo: repo.to_owned(), found: other_weights(names) }),
        [only] => only.select(repo, None),
        several => {
            let preferred = several.iter().filter(|group| group.is_quant(PREFERRED_QUANT));
            // Of "model" and "model-variant" the plain name is the one that is meant.
            match preferred.min_by_key(|group| group.stem.len()) {
                Some(group) => {
                    let others: Vec<String> = choices(several);
                    let note = format!(
                        "{repo} holds {} models: taking {} (name another as {repo}:NAME, of {})",
                        several.len(),
                        group.files[0],
                        others.join(", ")
                    );
                    group.select(repo, Some(note))
                }
                None => Err(Error::Ambiguous { repo: repo.to_owned(), choices: choices(several) }),
            }
        }
    }
}

/// The weights for which `is_wanted`, with everything that describes them.
fn safetensors(names: &[String], is_wanted: impl Fn(&str) -> bool, open: Option<&str>) -> Selection {
    let mut files: Vec<String> =
        names.iter().filter(|name| describes_model(name) || (is_weights(name) && is_wanted(name))).cloned().collect();
    if let Some(open) = open.filter(|open| !files.iter().any(|file| file == open)) {
        files.push(open.to_owned());
    }
    // Small files first: what is wrong with a repository shows before its gigabytes arrive.
    files.sort_by_key(|name| (name.ends_with(".safetensors"), name.clone()));
    Selection { files, open: open.map(str::to_owned), note: None }
}

/// Configuration, tokenizer, template and index at the top of a repository.
fn describes_model(name: &str) -> bool {
    const EXACT: [&str; 6] = [
        "config.json",
        "generation_config.json",
        "tokenizer.model",
        "chat_template.jinja",
        "special_tokens_map.json",
        "added_tokens.json",
    ];
    EXACT.contains(&name)
        || (!name.contains('/') && name.starts_with("tokenizer") && name.ends_with(".json"))
        || (!name.contains('/') && name.ends_with(".safetensors.index.json"))
}

/// Weights at the top of a repository. `consolidated*` is the same model once more, in its maker's
/// own layout.
fn is_weights(name: &str) -> bool {
    !name.contains('/') && name.ends_with(".safetensors") && !name.starts_with("consolidated")
}

/// One GGUF model: a file, or all the parts of a split one in order.
struct Group {
    /// The name without split suffix and extension.
    stem: String,
    files: Vec<String>,
    /// How many parts the names speak of.
    parts: usize,
}

impl Group {
    /// Whether the name ends in this quantisation: `Q4_K_M` is one for `x-Q4_K_M` and `x.q4_k_m`.
    fn is_quant(&self, quant: &str) -> bool {
        let stem = self.stem.to_lowercase();
        let base = stem.rsplit('/').next().unwrap_or(&stem);
        match base.strip_suffix(&quant.to_lowercase()) {
            Some(before) => before.is_empty() || before.ends_with(['-', '.', '_']),
            None => false,
        }
    }

    /// The quantisation in the name, where there is one.
    fn quant(&self) -> Option<&str> {
        let last = self.stem.rsplit(['-', '.', '/']).next()?;
        let upper = last.to_uppercase();
        let known = ["Q1", "Q2", "Q3", "Q4", "Q5", "Q6", "Q8", "IQ", "TQ", "F16", "FP16", "BF16", "F32", "MXFP4"];
        known.iter().any(|start| upper.starts_with(start)).then_some(last)
    }

    fn select(&self, repo: &str, note: Option<String>) -> Result<Selection> {
        if self.files.len() != self.parts {
            return Err(Error::FileNotFound {
                repo: repo.to_owned(),
                file: format!("{}-*-of-{:05}.gguf", self.stem, self.parts),
                available: format!(" for every part: {} of {} are there", self.files.len(), self.parts),
            });
        }
        Ok(Selection { files: self.files.clone(), open: Some(self.files[0].clone()), note })
    }
}

/// GGUF models among `names`; projectors of image models and calibration data are not models.
fn gguf_groups(names: &[String]) -> Vec<Group> {
    const EXTENSION: &str = ".gguf";
    let mut groups: BTreeMap<String, Group> = BTreeMap::new();
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    for name in sorted {
        let Some(stem_len) = name.len().checked_sub(EXTENSION.len()) else { continue };
        let lower = name.to_lowercase();
        let base = lower.rsplit('/').next().unwrap_or(&lower);
        // The last bytes are ASCII then, so the name can be cut there.
        let is_gguf = name.as_bytes()[stem_len..].eq_ignore_ascii_case(EXTENSION.as_bytes());
        if !is_gguf || base.contains("mmproj") || base.contains("imatrix") {
            continue;
        }
        let (stem, parts) = match split_of(name, EXTENSION) {
            Some((stem, parts)) => (stem.to_owned(), parts),
            None => (name[..stem_len].to_owned(), 1),
        };
        // Parts of different totals are different models.
        let group = groups.entry(format!("{stem} {parts}")).or_insert_with(|| Group { stem, files: Vec::new(), parts });
        group.files.push(name.clone());
    }
    groups.into_values().collect()
}

/// `x-00001-of-00005.gguf` is part of `x`, which has 5.
fn split_of<'a>(name: &'a str, extension: &str) -> Option<(&'a str, usize)> {
    let stem = name.strip_suffix(extension)?;
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let number =
        |text: &str| (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<usize>().ok()).flatten();
    let (part, total) = (number(part)?, number(total)?);
    (part >= 1 && part <= total).then_some((stem, total))
}

/// What to write after the colon for each group: its quantisation where that is unique.
fn choices(groups: &[Group]) -> Vec<String> {
    groups
        .iter()
        .map(|group| match group.quant() {
            Some(quant) if groups.iter().filter(|other| other.is_quant(quant)).count() == 1 => quant.to_owned(),
            _ => group.files[0].clone(),
        })
        .collect()
}

fn available(groups: &[Group], names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut all = if groups.is_empty() { names.to_vec() } else { choices(groups) };
    if all.is_empty() {
        return ": it is empty".to_owned();
    }
    let rest = all.len().saturating_sub(SHOWN);
    all.truncate(SHOWN);
    let rest = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("; there are {}{rest}", all.join(", "))
}

/// Weights of formats that are not read, to say why a repository is no use.
fn other_weights(names: &[String]) -> String {
    const OTHERS: [&str; 6] = [".bin", ".pth", ".pt", ".onnx", ".h5", ".msgpack"];
    match names.iter().find(|name| OTHERS.iter().any(|extension| name.ends_with(extension))) {
        Some(name) => format!(", only {name}"),
        None => String::new(),
    }
}

/// Shards that an index (`model.safetensors.index.json`) names.
pub(crate) fn shards_of_index(index: &str) -> Option<Vec<String>> {
    let index: serde_json::Value = serde_json::from_str(index).ok()?;
    let mut shards: Vec<String> =
        index.get("weight_map")?.as_object()?.values().map(|shard| shard.as_str().map(str::to_owned)).collect::<Option<_>>()?;
    shards.sort();
    shards.dedup();
    Some(shards)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// The files chosen, then what is opened.
    fn chosen(listing: &str, wanted: Option<&str>) -> String {
        match choose("o/r", &names(listing), wanted) {
            Ok(selection) => {
                format!("{} => {}", selection.files.join(" "), selection.open.as_deref().unwrap_or("(all)"))
            }
            Err(error) => error.to_string(),
        }
    }

    const SHARDED: &str = ".gitattributes README.md LICENSE config.json generation_config.json \
        model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json \
        original/params.json original/x.safetensors pytorch_model.bin consolidated.safetensors \
        special_tokens_map.json tokenizer.json tokenizer_config.json tokenizer.model onnx/model.onnx";

    #[test]
    fn safetensors_repositories() {
        let all = "config.json generation_config.json model.safetensors.index.json special_tokens_map.json \
            tokenizer.json tokenizer.model tokenizer_config.json model-00001-of-00002.safetensors \
            model-00002-of-00002.safetensors => (all)";
        let all = all.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(chosen(SHARDED, None), all);
        assert_eq!(chosen(SHARDED, Some("model-00001-of-00002.safetensors")), all);
        assert_eq!(
            chosen("config.json a.safetensors b.safetensors", Some("b.safetensors")),
            "config.json b.safetensors => b.safetensors"
        );
        assert_eq!(chosen(SHARDED, Some("tokenizer.json")), "tokenizer.json => tokenizer.json");
        // Both formats: the original weights.
        assert_eq!(chosen("m.gguf config.json m.safetensors", None), "config.json m.safetensors => (all)");
        assert_eq!(chosen("m.gguf config.json m.safetensors", Some("m.gguf")), "m.gguf => m.gguf");
    }

    const QUANTS: &str = "README.md m-Q2_K.gguf m-Q4_K_M.gguf m-Q4_K_S.gguf m-Q4_K_L.gguf m-f16.gguf mmproj-m-f16.gguf \
        m.imatrix.gguf big/m-Q8_0-00002-of-00002.gguf big/m-Q8_0-00001-of-00002.gguf";

    #[test]
    fn gguf_repositories() {
        assert_eq!(chosen("README.md m.gguf", None), "m.gguf => m.gguf");
        assert_eq!(chosen(QUANTS, None), "m-Q4_K_M.gguf => m-Q4_K_M.gguf");
        assert_eq!(chosen(QUANTS, Some("q2_k")), "m-Q2_K.gguf => m-Q2_K.gguf");
        assert_eq!(chosen(QUANTS, Some("f16")), "m-f16.gguf => m-f16.gguf");
        let split = "big/m-Q8_0-00001-of-00002.gguf big/m-Q8_0-00002-of-00002.gguf => big/m-Q8_0-00001-of-00002.gguf";
        assert_eq!(chosen(QUANTS, Some("Q8_0")), split);
        assert_eq!(chosen(QUANTS, Some("big/m-Q8_0-00002-of-00002.gguf")), split);

        let note = choose("o/r", &names(QUANTS), None).unwrap().note.unwrap();
        assert!(note.contains("6 models: taking m-Q4_K_M.gguf") && note.contains("Q2_K, Q4_K_L"), "{note}");
    }

    #[test]
    fn what_cannot_be_chosen() {
        let error = chosen(QUANTS, Some("Q5_K_M"));
        assert!(error.contains("no file 'Q5_K_M'; there are Q8_0, Q2_K"), "{error}");
        let error = chosen("a-Q2_K.gguf b-Q2_K.gguf", None);
        assert!(error.contains("'o/r:a-Q2_K.gguf'; there are a-Q2_K.gguf, b-Q2_K.gguf"), "{error}");
        let error = chosen("a-Q2_K.gguf b-Q2_K.gguf", Some("Q2_K"));
        assert!(error.contains("several models"), "{error}");
        let error = chosen("m-00001-of-00003.gguf m-00003-of-00003.gguf", None);
        assert!(error.contains("2 of 3"), "{error}");
        let error = chosen("config.json pytorch_model.bin", None);
        assert!(error.contains("no weights") && error.contains("pytorch_model.bin"), "{error}");
        assert!(chosen("", None).contains("no weights"));
        assert!(chosen("", Some("x")).contains("it is empty"));
    }

    #[test]
    fn split_names() {
        assert_eq!(split_of("a-00001-of-00002.gguf", ".gguf"), Some(("a", 2)));
        for name in
            ["a-00000-of-00002.gguf", "a-00003-of-00002.gguf", "a-1-of-2.gguf", "a.gguf", "-of-.gguf", "a-+0001-of-00002.gguf"]
        {
            assert_eq!(split_of(name, ".gguf"), None, "{name}");
        }
    }

    #[test]
    fn shards() {
        let index = r#"{"metadata":{},"weight_map":{"a":"2.safetensors","b":"1.safetensors","c":"2.safetensors"}}"#;
        assert_eq!(shards_of_index(index).unwrap(), ["1.safetensors", "2.safetensors"]);
        assert!(shards_of_index("{}").is_none() && shards_of_index("x").is_none());
    }

    proptest::proptest! {
        #[test]
        fn any_listing_gives_listed_files_or_an_error(
            names in proptest::collection::vec("[a-cQ4_K.é-]{0,4}(-0000[0-3]-of-0000[0-3])?(.gguf|.GGUF|.safetensors|.json)?", 0..8),
            wanted in proptest::option::of("[a-cQ4_K.é-]{0,6}(.gguf)?"),
        ) {
            if let Ok(selection) = choose("o/r", &names, wanted.as_deref()) {
                assert!(selection.files.iter().chain(&selection.open).all(|file| names.contains(file)));
            }
        }
    }
}
