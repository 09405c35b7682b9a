//! `samples_<task>.jsonl`: what was asked of every document, what was answered, and what that earned, as the harness logs it.

use std::io::Write;
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::document::{Answer, Ask, Document, Figure, Scored, Share};
use crate::hash::sha256;
use crate::log::exact;
use crate::{Error, Result};

/// Writes a task's samples; the file is there once it is whole.
pub struct Samples {
    path: std::path::PathBuf,
    file: std::io::BufWriter<tempfile::NamedTempFile>,
    eos: Option<String>,
}

impl Samples {
    /// Begins the samples of a task in a folder. `eos` ends generated answers.
    pub fn create(folder: &Path, task: &str, eos: Option<String>) -> Result<Self> {
        let path = folder.join(format!("samples_{task}.jsonl"));
        let file = beside(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        Ok(Self { path, file: std::io::BufWriter::new(file), eos })
    }

    /// Writes a document: a line for each filter.
    pub fn push(&mut self, document: &Document, answer: &Answer, scored: &Scored) -> Result<()> {
        for line in lines(document, answer, scored, self.eos.as_deref()) {
            writeln!(self.file, "{line}").map_err(|source| Error::Io { path: self.path.clone(), source })?;
        }
        Ok(())
    }

    /// Puts the file in its place.
    pub fn finish(self) -> Result<()> {
        let io = |source| Error::Io { path: self.path.clone(), source };
        let file = self.file.into_inner().map_err(|e| io(e.into_error()))?;
        file.persist(&self.path).map_err(|e| io(e.error))?;
        Ok(())
    }
}

/// A file that will take a path's place, with the rights that files have here.
pub fn beside(path: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

/// SHA-256 of a document's row, of its prompt and of its target, in hexadecimal digits.
pub fn hashes(document: &Document) -> (String, String, String) {
    let row = serde_json::to_string_pretty(&*document.row).unwrap_or_default();
    (sha256(row), sha256(&document.context), sha256(target(document)))
}

/// Python's `str(target)`.
fn target(document: &Document) -> String {
    document.target.as_str().map_or_else(|| document.target.to_string(), str::to_owned)
}

fn lines(document: &Document, answer: &Answer, scored: &Scored, eos: Option<&str>) -> Vec<Value> {
    let mut filters: Vec<&str> = Vec::new();
    for figure in &scored.figures {
        if !filters.contains(&figure.filter.as_str()) {
            filters.push(&figure.filter);
        }
    }
    let (doc_hash, prompt_hash, target_hash) = hashes(document);
    let arguments: Vec<Value> = match &document.ask {
        Ask::Choices(choices) => choices.iter().map(|choice| json!([document.context, choice])).collect(),
        Ask::Generate(kwargs) => vec![json!([document.context, kwargs.0])],
        Ask::Rolling => vec![json!([document.context])],
    };
    let resps = match answer {
        Answer::Choices(scores) => scores.iter().map(|(s, greedy)| json!([[exact(*s), greedy]])).collect(),
        Answer::Texts(texts) => json!([texts]),
        Answer::Rolling(sum) => json!([[exact(*sum)]]),
    };
    let filtered = |filter: &str| -> Value {
        let texts: Vec<&String> = scored.filtered.iter().filter(|(name, _)| name == filter).map(|(_, text)| text).collect();
        match (answer, &document.ask) {
            (Answer::Choices(scores), _) => scores.iter().map(|(s, greedy)| json!([exact(*s), greedy])).collect(),
            (Answer::Texts(texts), Ask::Generate(kwargs)) if scored.filtered.is_empty() => {
                texts.iter().map(|text| kwargs.cut(text, eos).to_owned()).collect()
            }
            (Answer::Texts(_), _) => json!(texts),
            (Answer::Rolling(sum), _) => json!([exact(*sum)]),
        }
    };
    let line = |filter: &&str| {
        let mut line = Map::new();
        line.insert("task".into(), (*document.task).into());
        line.insert("doc_id".into(), document.doc_id.into());
        line.insert("doc".into(), (*document.row).clone());
        line.insert("target".into(), target(document).into());
        line.insert("arguments".into(), arguments.clone().into());
        line.insert("resps".into(), resps.clone());
        line.insert("filtered_resps".into(), filtered(filter));
        line.insert("filter".into(), (*filter).into());
        for (name, hash) in [("doc_hash", &doc_hash), ("prompt_hash", &prompt_hash), ("target_hash", &target_hash)] {
            line.insert(name.into(), hash.as_str().into());
        }
        let verdicts: Vec<&str> = scored.filtered.iter().filter(|(name, _)| name == "verdict").map(|(_, v)| v.as_str()).collect();
        if !verdicts.is_empty() {
            line.insert("verdicts".into(), json!(verdicts));
        }
        for Figure { metric, value, share, .. } in scored.figures.iter().filter(|figure| figure.filter == **filter) {
            let value = match share {
                Share::Document => json!(value),
                Share::Flags(flags) => json!(flags),
                Share::Units(units) => json!([value, units]),
            };
            line.insert(metric.clone(), value);
        }
        Value::Object(line)
    };
    filters.iter().map(line).collect()
}
