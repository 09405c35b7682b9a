//! What a person writes for a model, and what it means.
//!
//! In this order: a path that exists; something that can only be a path; an alias; `org/repo`, with
//! `@revision` and `:file` after it. Nothing here touches the network or the cache.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::{Error, Result};

/// A short name for a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// What is typed.
    pub name: &'static str,
    /// The hub repository that it stands for.
    pub repo: &'static str,
    /// One line for a list.
    pub about: &'static str,
}

/// Name of the default model's alias.
pub const DEFAULT_ALIAS: &str = "smollm2";

/// Every alias: the small default model and the six models of the card.
pub const ALIASES: &[Alias] = &[
    Alias { name: DEFAULT_ALIAS, repo: crate::default_model::REPO, about: "SmolLM2 135M Instruct, Q4_1, 98 MB: the default" },
    Alias { name: "solar-pro", repo: "upstage/solar-pro-preview-instruct", about: "Solar Pro Preview 22B" },
    Alias { name: "phi-3-medium", repo: "microsoft/Phi-3-medium-4k-instruct", about: "Phi-3 Medium 14B" },
    Alias { name: "phi-3.5-moe", repo: "microsoft/Phi-3.5-MoE-instruct", about: "Phi-3.5 MoE 16x3.8B" },
    Alias { name: "gemma-2-27b", repo: "google/gemma-2-27b-it", about: "Gemma 2 27B" },
    Alias { name: "llama-3.1-8b", repo: "meta-llama/Llama-3.1-8B-Instruct", about: "Llama 3.1 8B" },
    Alias { name: "llama-3.1-70b", repo: "meta-llama/Llama-3.1-70B-Instruct", about: "Llama 3.1 70B" },
];

/// What a repository of the hub holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Model,
    Dataset,
}

impl Kind {
    /// The word in addresses and in the cache.
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// A model as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum ModelRef {
    /// The small model that `sol` uses when none is named.
    #[default]
    Default,
    /// A file or a directory on this machine.
    Path(PathBuf),
    /// A repository of the hub.
    Repo {
        /// `org/name`.
        repo: String,
        /// Branch, tag or commit; `main` where `None`.
        revision: Option<String>,
        /// One file of it, or the name of a quantisation such as `Q4_K_M`.
        file: Option<String>,
    },
}

impl FromStr for ModelRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl std::fmt::Display for ModelRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str(DEFAULT_ALIAS),
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Repo { repo, revision, file } => {
                f.write_str(repo)?;
                if let Some(revision) = revision {
                    write!(f, "@{revision}")?;
                }
                if let Some(file) = file {
                    write!(f, ":{file}")?;
                }
                Ok(())
            }
        }
    }
}

impl ModelRef {
    /// Reads what a person wrote.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |reason: String| Error::BadReference { reference: text.to_owned(), reason };
        if text.trim().is_empty() {
            return Err(bad("it is empty".to_owned()));
        }
        match Path::new(text).try_exists() {
            Ok(true) => return Ok(Self::Path(PathBuf::from(text))),
            // Something is there, and opening it will say why it cannot be read.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Ok(Self::Path(PathBuf::from(text)));
            }
            _ => {}
        }
        if let Some((_, rest)) = text.split_once("://") {
            let repo = rest.split('/').skip(1).take(2).collect::<Vec<_>>().join("/");
            return Err(bad(format!("write a repository of the hub as 'org/repo', here '{repo}'")));
        }

        let (name, file) = match text.split_once(':') {
            Some((name, file)) => (name, Some(file)),
            None => (text, None),
        };
        let (name, revision) = match name.split_once('@') {
            Some((name, revision)) => (name, Some(revision)),
            None => (name, None),
        };
        if looks_like_path(text, name) {
            let hint = if name.split('/').count() == 2 && !name.starts_with(['.', '/', '~']) {
                " (a file of a hub repository is written org/repo:file)"
            } else {
                ""
            };
            return Err(Error::PathNotFound { path: PathBuf::from(text), hint });
        }
        if let Some(revision) = revision {
            check_revision(revision).map_err(|reason| bad(format!("the revision {reason}")))?;
        }
        if let Some(file) = file {
            check_file_name(file).map_err(|reason| bad(format!("the file name {reason}")))?;
        }

        let repo = if let Some(alias) = ALIASES.iter().find(|alias| alias.name == name.to_lowercase()) {
            if alias.name == DEFAULT_ALIAS {
                return match (revision, file) {
                    (None, None) => Ok(Self::Default),
                    _ => Err(bad(format!("{DEFAULT_ALIAS} is one pinned file, without revision or file"))),
                };
            }
            alias.repo
        } else if name.contains('/') {
            check_repo(name).map_err(bad)?;
            name
        } else {
            return Err(Error::UnknownModel { name: name.to_owned(), suggestion: suggestion(name) });
        };
        Ok(Self::Repo { repo: repo.to_owned(), revision: revision.map(str::to_owned), file: file.map(str::to_owned) })
    }
}

/// Whether `text` can only have been meant as a path. A repository has exactly one slash.
fn looks_like_path(text: &str, name: &str) -> bool {
    const EXTENSIONS: [&str; 4] = [".gguf", ".safetensors", ".json", ".bin"];
    text.starts_with(['/', '.', '~'])
        || text.contains('\\')
        || name.ends_with('/')
        || name.matches('/').count() > 1
        || EXTENSIONS.iter().any(|extension| name.to_lowercase().ends_with(extension))
}

/// The hub's own rules for `org/name`; they also make it safe as a directory name.
pub(crate) fn check_repo(repo: &str) -> Result<(), String> {
    let word = |part: &str| {
        !part.is_empty()
            && part.len() <= 96
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
            && !part.starts_with(['-', '.'])
            && !part.ends_with(['-', '.'])
    };
    match repo.split_once('/') {
        Some((org, name)) if word(org) && word(name) && !repo.contains("--") && !repo.contains("..") => Ok(()),
        _ => Err(format!(
            "'{repo}' is no repository name: it is org/name of letters, digits, '-', '_' and '.', \
             without '--' and '..'"
        )),
    }
}

/// A branch, tag or commit that is safe as a path below `refs/` and in an address.
pub(crate) fn check_revision(revision: &str) -> Result<(), String> {
    check_file_name(revision)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte);
    if revision.bytes().all(plain) { Ok(()) } else { Err("has characters that no branch, tag or commit has".to_owned()) }
}

/// A relative path that stays below where it is put, on every platform.
pub(crate) fn check_file_name(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("is empty".to_owned());
    }
    if name.len() > 512 {
        return Err("is longer than 512 bytes".to_owned());
    }
    let part_is_safe = |part: &str| !matches!(part, "" | "." | "..");
    let character_is_safe = |c: char| !c.is_control() && c != '\\' && c != ':';
    if !name.split('/').all(part_is_safe) || !name.chars().all(character_is_safe) {
        return Err(format!("'{}' would leave its directory", name.escape_debug()));
    }
    Ok(())
}

/// The nearest aliases, or all of them when none is near.
fn suggestion(name: &str) -> String {
    let mut near: Vec<(usize, &str)> = ALIASES
        .iter()
        .map(|alias| (distance(&name.to_lowercase(), alias.name), alias.name))
        .filter(|(distance, alias)| *distance <= 3.max(alias.len() / 2))
        .collect();
    near.sort();
    let names: Vec<&str> = near.iter().take(2).map(|(_, alias)| *alias).collect();
    let meant = match names.as_slice() {
        [] => {
            let all: Vec<&str> = ALIASES.iter().map(|alias| alias.name).collect();
            format!("known names are {}.", all.join(", "))
        }
        names => format!("did you mean {}?", names.join(" or ")),
    };
    format!("{meant} Otherwise give a path or a hub repository, org/repo")
}

/// Edits (insert, delete, replace) from `a` to `b`; text added at an end of an alias is cheap, since
/// `llama-3.1` for `llama-3.1-8b` is the likely slip.
fn distance(a: &str, b: &str) -> usize {
    if a.len() >= 3 && (b.contains(a) || a.contains(b)) {
        return 1;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repo(repo: &str, revision: Option<&str>, file: Option<&str>) -> ModelRef {
        ModelRef::Repo { repo: repo.to_owned(), revision: revision.map(str::to_owned), file: file.map(str::to_owned) }
    }

    #[test]
    fn references() {
        let check = |text: &str, expected: ModelRef| {
            assert_eq!(ModelRef::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")), expected);
        };
        check("smollm2", ModelRef::Default);
        check("SmolLM2", ModelRef::Default);
        check("solar-pro", repo("upstage/solar-pro-preview-instruct", None, None));
        check("solar-pro@v1", repo("upstage/solar-pro-preview-instruct", Some("v1"), None));
        check("llama-3.1-8b", repo("meta-llama/Llama-3.1-8B-Instruct", None, None));
        check("a/b", repo("a/b", None, None));
        check("a/b.c-d_e@refs/pr/1", repo("a/b.c-d_e", Some("refs/pr/1"), None));
        check("a/b:sub/x-Q4_0.gguf", repo("a/b", None, Some("sub/x-Q4_0.gguf")));
        check("a/b@main:Q4_K_M", repo("a/b", Some("main"), Some("Q4_K_M")));
        check("a/b:x@y.gguf", repo("a/b", None, Some("x@y.gguf")));
    }

    #[test]
    fn an_existing_path_wins() {
        let dir = tempfile::tempdir().unwrap();
        let text = dir.path().to_str().unwrap();
        assert_eq!(ModelRef::parse(text).unwrap(), ModelRef::Path(dir.path().to_owned()));
    }

    #[test]
    fn paths_that_do_not_exist() {
        for text in ["./x", "../x", "/no/where", "x.gguf", "dir/x.gguf", "a/b/c", "C:\\m.gguf", "~/m", "a/"] {
            let error = ModelRef::parse(text).unwrap_err();
            assert!(matches!(error, Error::PathNotFound { .. }), "{text}: {error}");
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn refused() {
        let long = format!("a/{}", "b".repeat(97));
        for text in [
            "",
            "  ",
            "a/b@",
            "a/b:",
            "a/b:../x",
            "a/b:/etc/passwd",
            "a/b@../../x",
            "a/b@x y",
            "a/..",
            "a/b--c",
            "-a/b",
            "a/b c",
            "a/b:x\ny",
            "smollm2:Q4",
            "https://h.co/a/b",
            "a/é",
            &long,
        ] {
            let error = ModelRef::parse(text).map(|reference| panic!("{text}: {reference:?}")).unwrap_err();
            assert!(matches!(error, Error::BadReference { .. } | Error::PathNotFound { .. }), "{text}: {error:?}");
        }
    }

    #[test]
    fn unknown_names_suggest_near_ones() {
        let message = |text: &str| ModelRef::parse(text).unwrap_err().to_string();
        assert!(message("smolm2").contains("did you mean smollm2?"), "{}", message("smolm2"));
        assert!(message("solar").contains("solar-pro"));
        assert!(message("llama-3.1").contains("llama-3.1-8b"));
        assert!(message("phi3-medium").contains("phi-3-medium"));
        let far = message("zzzzzzzzzzzzzzzzzzzz");
        assert!(far.contains("known names are smollm2, solar-pro") && far.contains("org/repo"), "{far}");
    }

    #[test]
    fn shown_as_written() {
        for text in ["a/b", "a/b@v1", "a/b:x.gguf", "a/b@v1:x.gguf", "smollm2"] {
            assert_eq!(ModelRef::parse(text).unwrap().to_string(), text);
        }
    }

    proptest::proptest! {
        /// Whatever is typed, what comes out is safe below a cache directory.
        #[test]
        fn any_text_is_safe_or_refused(text in "([a-z.~@:/-]|\\PC){0,24}|[a-c.-]{1,3}/[a-c.-]{1,4}(@[a./]{1,5})?(:[a./]{1,5})?") {
            if let Ok(ModelRef::Repo { repo, revision, file }) = ModelRef::parse(&text) {
                assert!(!repo.contains("..") && repo.matches('/').count() == 1);
                let parts = [revision, file].into_iter().flatten();
                assert!(parts.flat_map(|part| part.split('/').map(str::to_owned).collect::<Vec<_>>()).all(|part| !matches!(part.as_str(), "" | "." | "..")));
            }
        }
    }
}
