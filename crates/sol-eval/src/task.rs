//! A benchmark as data: where its rows are, how a row becomes a prompt, what is measured. `tasks/*.toml` are the built-in ones; a
//! user's own file has the same form.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::data::{Columns, Location, OneOrMore};
use crate::{Error, Result};

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The log-likelihoods of given continuations.
    MultipleChoice,
    /// A continuation.
    GenerateUntil,
    /// The log-likelihood of a text.
    LoglikelihoodRolling,
}

/// Where rows are; [`Location`] says more of each.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Folder beneath the data directory.
    pub folder: String,
    /// The hub's data set, `org/name`.
    pub hub: Option<String>,
    /// Its config, where leaves do not name theirs.
    pub config: Option<String>,
    /// Branch, tag or commit of it.
    pub revision: Option<String>,
    /// Whether its conditions must be accepted first.
    #[serde(default)]
    pub gated: bool,
    /// Columns that the rows must have.
    #[serde(default)]
    pub columns: Vec<String>,
    /// Names of the file with the rows, tried in turn.
    #[serde(default)]
    pub rows: Vec<String>,
    /// Names of the file with examples; without any, examples are other rows of the evaluated split.
    #[serde(default)]
    pub examples: Vec<String>,
}

/// A column that is made of others.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derive {
    /// Its name. A row that has it keeps it.
    pub column: String,
    /// An expression; `row` is the whole row.
    pub value: String,
}

/// How examples are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// The first, the same for every document.
    #[default]
    FirstN,
    /// Drawn anew for every document by a generator whose state goes on.
    Random,
}

/// Examples in front of a question; none where a task says nothing.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fewshot {
    /// How many, where nobody says another number.
    #[serde(default)]
    pub n: usize,
    /// Whether that can't be changed.
    #[serde(default)]
    pub fixed: bool,
    /// How they are chosen.
    #[serde(default)]
    pub sampler: SamplerKind,
    /// How many more are drawn than used.
    #[serde(default)]
    pub surplus: usize,
}

/// A regular expression that finds the answer in a text.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Its name in results.
    pub name: String,
    /// The expression; its first group that took part is the answer.
    pub regex: String,
    /// The last match instead of the first.
    #[serde(default)]
    pub last: bool,
}

/// Equality of an extracted answer with the target.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExactMatch {
    /// What finds the answer; without one it is the whole text.
    #[serde(default)]
    pub filters: Vec<Filter>,
    /// Expressions whose matches are deleted from both, in this order.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Compare lower case.
    #[serde(default)]
    pub ignore_case: bool,
    /// Compare without ASCII punctuation.
    #[serde(default)]
    pub ignore_punctuation: bool,
}

/// A judge of generated answers that is code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// Whether the instructions of IFEval are followed.
    Ifeval,
    /// How close rated emotions come to those of the column `reference_answer_fullscale`.
    EqBench,
    /// Whether the prompt and the text are a program that passes the tests that are the target.
    Programs,
}

/// A leaf task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name, the harness's where it is one of the harness's.
    pub name: String,
    /// How tables show it beneath its group.
    pub alias: String,
    /// Groups it is part of, outermost first.
    pub groups: Vec<String>,
    /// Version of its definition.
    pub version: f64,
    /// What is asked.
    pub kind: Kind,
    /// Where rows are.
    pub data: Data,
    /// Which rows of the file.
    pub config: Option<String>,
    /// A condition: the rows and examples for which it holds.
    pub only: Option<String>,
    /// Text before the examples.
    pub description: String,
    /// Columns made of others, in order.
    pub derive: Vec<Derive>,
    /// Template of a question.
    pub text: String,
    /// Expression of the list of choices.
    pub choices: String,
    /// Template of the right answer.
    pub target: String,
    /// Template of an example with its answer, where it is not the question and the right answer.
    pub example: Option<String>,
    /// Examples in front of a question.
    pub fewshot: Fewshot,
    /// Examples that the task brings.
    pub samples: Vec<Map<String, Value>>,
    /// How to generate.
    pub generate: Map<String, Value>,
    /// `acc`, `acc_norm`.
    pub metrics: Vec<String>,
    /// A column by whose values figures are told apart too.
    pub by: Option<String>,
    /// Who judges a generated answer, where it is not compared with the target.
    pub judge: Option<Judge>,
    /// How a generated answer is compared with the target.
    pub exact_match: ExactMatch,
}

impl Task {
    /// Where its rows are, as splits [`ROWS`] and [`EXAMPLES`].
    pub fn location(&self) -> Location {
        let data = &self.data;
        let examples = if data.examples.is_empty() { &data.rows } else { &data.examples };
        let splits = [(ROWS, &data.rows), (EXAMPLES, examples)];
        Location {
            hub: data.hub.clone(),
            config: self.config.clone(),
            revision: data.revision.clone(),
            folder: Some(OneOrMore::One(data.folder.clone())),
            splits: splits.into_iter().map(|(split, names)| (split.to_owned(), OneOrMore::More(names.clone()))).collect(),
            gated: data.gated,
            columns: Columns::BySplit([(ROWS.to_owned(), data.columns.clone())].into()),
        }
    }
}

/// The split of a task's [`Location`] that is evaluated.
pub const ROWS: &str = "rows";
/// The split that examples are taken from.
pub const EXAMPLES: &str = "examples";

/// A group's rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Whether the harness prints a mean for it, weighted by its tasks' sizes.
    pub weighted: bool,
    /// Version of its definition.
    pub version: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    version: f64,
    group_version: Option<f64>,
    kind: Kind,
    data: Data,
    only: Option<String>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    derive: Vec<Derive>,
    text: String,
    #[serde(default)]
    choices: String,
    #[serde(default)]
    target: String,
    example: Option<String>,
    #[serde(default)]
    fewshot: Fewshot,
    #[serde(default)]
    samples: Vec<Map<String, Value>>,
    #[serde(default)]
    generate: Map<String, Value>,
    #[serde(default)]
    metrics: Vec<String>,
    by: Option<String>,
    judge: Option<Judge>,
    #[serde(default)]
    exact_match: ExactMatch,
    #[serde(default)]
    weighted: bool,
    #[serde(default)]
    leaf: Vec<Leaf>,
}

/// What a leaf of a group has of its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Leaf {
    name: String,
    alias: Option<String>,
    group: Option<String>,
    config: Option<String>,
    rows: Option<Vec<String>>,
    only: Option<String>,
    description: Option<String>,
    choices: Option<String>,
    samples: Option<Vec<Map<String, Value>>>,
}

const BUILT_IN: [(&str, &str); 15] = [
    ("arc_challenge.toml", include_str!("../tasks/arc_challenge.toml")),
    ("bbh.toml", include_str!("../tasks/bbh.toml")),
    ("eq_bench.toml", include_str!("../tasks/eq_bench.toml")),
    ("gpqa_zeroshot.toml", include_str!("../tasks/gpqa_zeroshot.toml")),
    ("gsm8k.toml", include_str!("../tasks/gsm8k.toml")),
    ("gsm8k_cot.toml", include_str!("../tasks/gsm8k_cot.toml")),
    ("hellaswag.toml", include_str!("../tasks/hellaswag.toml")),
    ("ifeval.toml", include_str!("../tasks/ifeval.toml")),
    ("leaderboard_gpqa.toml", include_str!("../tasks/leaderboard_gpqa.toml")),
    ("leaderboard_ifeval.toml", include_str!("../tasks/leaderboard_ifeval.toml")),
    ("mbpp.toml", include_str!("../tasks/mbpp.toml")),
    ("mmlu.toml", include_str!("../tasks/mmlu.toml")),
    ("mmlu_pro.toml", include_str!("../tasks/mmlu_pro.toml")),
    ("mmlu_pro_generative.toml", include_str!("../tasks/mmlu_pro_generative.toml")),
    ("musr.toml", include_str!("../tasks/musr.toml")),
];

/// All tasks that are known.
pub struct Registry {
    tasks: Vec<Arc<Task>>,
    groups: Vec<Group>,
}

impl Registry {
    /// The built-in tasks.
    pub fn built_in() -> Result<Self> {
        let mut registry = Self { tasks: Vec::new(), groups: Vec::new() };
        BUILT_IN.iter().try_for_each(|(name, text)| registry.add(name, text))?;
        Ok(registry)
    }

    /// Adds the tasks of a file; one of a known name takes its place.
    pub fn include(&mut self, file: &Path) -> Result<()> {
        let text = std::fs::read_to_string(file).map_err(|source| Error::Io { path: file.into(), source })?;
        self.add(&file.display().to_string(), &text)
    }

    fn add(&mut self, name: &str, text: &str) -> Result<()> {
        let problem = |problem: String| Error::TaskFile { file: name.into(), problem };
        let file: File = toml::from_str(text).map_err(|e| problem(e.to_string()))?;
        if file.kind == Kind::MultipleChoice && file.metrics.iter().any(|m| !["acc", "acc_norm"].contains(&m.as_str())) {
            return Err(problem("metrics of a multiple-choice task are acc and acc_norm".into()));
        }
        let base = Task {
            alias: file.name.clone(),
            name: file.name,
            groups: Vec::new(),
            version: file.version,
            kind: file.kind,
            config: file.data.config.clone(),
            data: file.data,
            only: file.only,
            description: file.description,
            derive: file.derive,
            text: file.text,
            choices: file.choices,
            target: file.target,
            example: file.example,
            fewshot: file.fewshot,
            samples: file.samples,
            generate: file.generate,
            metrics: file.metrics,
            by: file.by,
            judge: file.judge,
            exact_match: file.exact_match,
        };
        let is_group = !file.leaf.is_empty();
        let mut tasks = Vec::new();
        for leaf in file.leaf {
            let mut task = base.clone();
            task.groups = [Some(base.name.clone()), leaf.group].into_iter().flatten().collect();
            task.alias = leaf.alias.unwrap_or_else(|| leaf.name.clone());
            task.name = leaf.name;
            task.config = leaf.config.or(task.config);
            task.data.rows = leaf.rows.unwrap_or(task.data.rows);
            task.only = leaf.only.or(task.only);
            task.description = leaf.description.unwrap_or(task.description);
            task.choices = leaf.choices.unwrap_or(task.choices);
            task.samples = leaf.samples.unwrap_or(task.samples);
            tasks.push(task);
        }
        if !is_group {
            tasks.push(base);
        }
        for task in tasks {
            if task.data.rows.is_empty() || (task.kind == Kind::MultipleChoice && task.choices.is_empty()) {
                return Err(problem(format!("task '{}' needs data.rows, and choices if it is multiple choice", task.name)));
            }
            let wrong = |c: char| matches!(c, '/' | '\\' | ',' | '*' | '?') || c.is_control() || c.is_whitespace();
            if task.name.is_empty() || task.name.starts_with('.') || task.name.contains(wrong) {
                return Err(problem(format!("'{}' is no name: one has no spaces, slashes, commas or stars", task.name)));
            }
            let (choices, generate) = (task.kind == Kind::MultipleChoice, task.kind == Kind::GenerateUntil);
            let of_choices = !task.choices.is_empty() || !task.metrics.is_empty();
            let of_texts = !task.generate.is_empty() || task.judge.is_some() || !task.exact_match.filters.is_empty();
            if (of_choices && !choices) || (of_texts && !generate) {
                let why = "choices and metrics are for multiple choice; generate, judge and exact_match for generated answers";
                return Err(problem(format!("task '{}': {why}", task.name)));
            }
            if task.target.is_empty() && (choices || (generate && task.judge.is_none())) {
                return Err(problem(format!("task '{}' needs a target", task.name)));
            }
            // One of a group's name takes the place of the group.
            self.tasks.retain(|known| known.name != task.name && !known.groups.contains(&task.name));
            for name in &task.groups {
                if !self.groups.iter().any(|group| group.name == *name) {
                    let version = file.group_version.unwrap_or(file.version);
                    self.groups.push(Group { name: name.clone(), weighted: file.weighted, version });
                }
            }
            self.tasks.push(Arc::new(task));
        }
        Ok(())
    }

    /// Names of all groups and tasks, sorted.
    pub fn names(&self) -> Vec<&str> {
        let groups = self.groups.iter().map(|g| g.name.as_str());
        let mut names: Vec<&str> = self.tasks.iter().map(|t| t.name.as_str()).chain(groups).collect();
        names.sort_unstable();
        names
    }

    /// The group of this name.
    pub fn group(&self, name: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// The leaf tasks that names and patterns (`mmlu_*`) stand for, each once, sorted as the harness sorts what it is given, in
    /// the order in which it loads them: of a group the last first.
    pub fn select(&self, names: &[String]) -> Result<Vec<Arc<Task>>> {
        let mut found: Vec<&str> = Vec::new();
        for name in names {
            let pattern = regex::escape(name).replace("\\*", ".*").replace("\\?", ".");
            let pattern = regex::Regex::new(&format!("^(?:{pattern})$")).expect("escaped");
            let matching: Vec<&str> = self.names().into_iter().filter(|known| pattern.is_match(known)).collect();
            if matching.is_empty() {
                let mut near: Vec<(f64, &str)> =
                    self.names().into_iter().map(|known| (strsim::jaro_winkler(known, name), known)).collect();
                near.sort_by(|a, b| b.0.total_cmp(&a.0));
                let near = near.iter().filter(|(likeness, _)| *likeness > 0.8).take(3).map(|(_, name)| (*name).into()).collect();
                return Err(Error::UnknownTask { name: name.clone(), near });
            }
            found.extend(matching);
        }
        found.sort_unstable();
        let mut tasks: Vec<Arc<Task>> = Vec::new();
        for name in found {
            let of = |t: &&Arc<Task>| t.name == name || t.groups.iter().any(|group| group == name);
            for task in self.tasks.iter().rev().filter(of) {
                if !tasks.iter().any(|known| known.name == task.name) {
                    tasks.push(Arc::clone(task));
                }
            }
        }
        Ok(tasks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(names: &[&str]) -> Result<Vec<String>> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        Ok(Registry::built_in()?.select(&names)?.iter().map(|t| t.name.clone()).collect())
    }

    #[test]
    fn names_groups_and_patterns() {
        assert_eq!(select(&["mmlu"]).unwrap().len(), 57);
        assert_eq!(select(&["mmlu_stem", "mmlu_anatomy"]).unwrap().len(), 19);
        assert_eq!(select(&["leaderboard_bbh"]).unwrap().len(), 24);
        let gpqa = ["main", "extended", "diamond"].map(|n| format!("leaderboard_gpqa_{n}"));
        assert_eq!(select(&["leaderboard_gpqa"]).unwrap(), gpqa);
        assert_eq!(select(&["*_cot", "arc_challenge"]).unwrap(), ["arc_challenge", "gsm8k_cot"]);
        let miss = select(&["helaswag"]).unwrap_err().to_string();
        assert!(miss.contains("did you mean hellaswag"), "{miss}");
    }

    #[test]
    fn a_file_says_what_is_wrong_with_it() {
        let mut registry = Registry::built_in().unwrap();
        let wrong = registry.add("mine.toml", "name = 'x'\nversion = 1.0\nkind = 'essay'").unwrap_err().to_string();
        assert!(wrong.contains("mine.toml") && wrong.contains("essay"), "{wrong}");
    }
}
