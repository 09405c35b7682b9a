//! Answers to figures, as the harness reckons them.

mod eq_bench;
mod ifeval;
mod programs;

use std::sync::PoisonError;

use regex::Regex;
use serde_json::Value;

use crate::data::Row;
use crate::document::{Answer, Ask, Document, Figure, GenKwargs, Scored, Share};
use crate::prompt::Shared;
use crate::python::text;
use crate::task::{ExactMatch, Judge, Kind, Task};
use crate::{Error, Result};

/// A task's metrics, with their expressions compiled.
pub struct Metrics<'a> {
    task: &'a Task,
    filters: Vec<(&'a str, Regex, bool)>,
    ignore: Vec<Regex>,
    random: Shared,
    execute: Option<&'a Execute<'a>>,
}

/// Runs programs and says of each `passed`, or what went wrong.
pub type Execute<'a> = dyn Fn(&[String]) -> Result<Vec<String>> + 'a;

/// What [`Execute`] says of a program that is right.
pub const PASSED: &str = "passed";

/// What a filter makes of a text without a match.
const INVALID: &str = "[invalid]";

impl<'a> Metrics<'a> {
    /// Refuses expressions that are none, and a task whose answers are programs where nobody runs them. IFEval draws from the run's
    /// generator.
    pub fn new(task: &'a Task, random: &Shared, execute: Option<&'a Execute<'a>>) -> Result<Self> {
        if task.judge == Some(Judge::Programs) && execute.is_none() {
            return Err(Error::Execution { task: task.name.clone() });
        }
        let compile = |source: &str| {
            let problem = |e: regex::Error| Error::TaskFile { file: task.name.clone(), problem: e.to_string() };
            Regex::new(source).map_err(problem)
        };
        let ExactMatch { filters, ignore, .. } = &task.exact_match;
        let filters = filters.iter().map(|f| Ok((f.name.as_str(), compile(&f.regex)?, f.last)));
        Ok(Self {
            task,
            filters: filters.collect::<Result<_>>()?,
            ignore: ignore.iter().map(|source| compile(source)).collect::<Result<_>>()?,
            random: random.clone(),
            execute,
        })
    }

    /// What a document earns with an answer. A generated text is first cut at each of the document's `until`, and of `eos`.
    pub fn score(&self, document: &Document, answer: &Answer, eos: Option<&str>) -> Result<Scored> {
        let problem = |problem: String| Error::Document { task: self.task.name.clone(), doc_id: document.doc_id, problem };
        match (self.task.kind, &document.ask, answer) {
            (Kind::MultipleChoice, Ask::Choices(choices), Answer::Choices(scores)) => {
                if scores.len() != choices.len() {
                    return Err(problem(format!("{} answers to {} choices", scores.len(), choices.len())));
                }
                if scores.iter().any(|(log_likelihood, _)| log_likelihood.is_nan()) {
                    return Err(problem("the model gave a log-likelihood that is no number".into()));
                }
                Ok(Scored { filtered: Vec::new(), figures: self.choices(choices, &document.target, scores) })
            }
            (Kind::GenerateUntil, Ask::Generate(kwargs), Answer::Texts(texts)) => {
                let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
                if texts.is_empty() {
                    return Err(problem("there is no text in the answer".into()));
                }
                if self.task.judge == Some(Judge::Programs) {
                    return self.programs(document, kwargs, &texts, eos);
                }
                let [text] = texts[..] else { return Err(problem(format!("{} texts, where one was asked for", texts.len()))) };
                let text = kwargs.cut(text, eos);
                match self.task.judge {
                    None => Ok(self.text(text, &document.target)),
                    Some(Judge::EqBench) => self.emotions(document, text).map_err(problem),
                    Some(_) => self.instructions(document, text).map_err(problem),
                }
            }
            (Kind::LoglikelihoodRolling, Ask::Rolling, Answer::Rolling(sum)) => {
                if sum.is_nan() {
                    return Err(problem("the model gave a log-likelihood that is no number".into()));
                }
                Ok(self.rolling(document, *sum))
            }
            _ => Err(problem("the answer is of another kind than the question".into())),
        }
    }

    fn choices(&self, choices: &[String], target: &Value, scores: &[(f64, bool)]) -> Vec<Figure> {
        // Without the delimiter.
        let texts: Vec<&str> = choices.iter().map(|choice| choice.strip_prefix(' ').unwrap_or(choice)).collect();
        let gold = match target {
            Value::String(text) => texts.iter().position(|choice| choice == text),
            index => index.as_u64().map(|index| index as usize),
        };
        let lengths = texts.iter().map(|text| text.chars().count() as f64);
        let metric = |name: &String| {
            let right = match name.as_str() {
                "acc_norm" => first_maximum(scores.iter().zip(lengths.clone()).map(|((score, _), length)| score / length)),
                _ => first_maximum(scores.iter().map(|(score, _)| *score)),
            };
            Figure {
                filter: "none".into(),
                metric: name.clone(),
                value: f64::from(u8::from(gold == Some(right))),
                share: Share::Document,
            }
        };
        self.task.metrics.iter().map(metric).collect()
    }

    fn text(&self, text: &str, target: &Value) -> Scored {
        let target = target.as_str().map_or_else(|| target.to_string(), str::to_owned);
        let mut scored = Scored::default();
        let answers: Vec<(String, String)> = if self.filters.is_empty() {
            vec![("none".to_owned(), text.to_owned())]
        } else {
            self.filters.iter().map(|(name, regex, last)| ((*name).to_owned(), extract(regex, *last, text))).collect()
        };
        for (filter, answer) in answers {
            let equal = self.normal(&answer) == self.normal(&target);
            let value = f64::from(u8::from(equal));
            scored.figures.push(Figure { filter: filter.clone(), metric: "exact_match".into(), value, share: Share::Document });
            scored.filtered.push((filter, answer));
        }
        scored
    }

    fn instructions(&self, document: &Document, text: &str) -> Result<Scored, String> {
        let mut random = self.random.lock().unwrap_or_else(PoisonError::into_inner);
        let flags = ifeval::score(&document.row, text, &mut random)?;
        let mut figures = Vec::new();
        for (name, flags) in [("strict", flags.strict), ("loose", flags.loose)] {
            let sum = flags.iter().filter(|flag| **flag).count();
            let mut figure = |level: &str, value: f64, share| {
                figures.push(Figure { filter: "none".into(), metric: format!("{level}_level_{name}_acc"), value, share });
            };
            figure("prompt", f64::from(u8::from(sum == flags.len())), Share::Document);
            figure("inst", sum as f64, Share::Flags(flags));
        }
        Ok(Scored { filtered: Vec::new(), figures })
    }

    fn emotions(&self, document: &Document, text: &str) -> Result<Scored, String> {
        let empty = Row::new();
        let (score, read) = eq_bench::score(document.row.as_object().unwrap_or(&empty), text)?;
        let figure = |metric: &str, value| Figure { filter: "none".into(), metric: metric.into(), value, share: Share::Document };
        let figures = vec![figure("eqbench", score), figure("percent_parseable", if read { 100.0 } else { 0.0 })];
        Ok(Scored { filtered: Vec::new(), figures })
    }

    fn programs(&self, document: &Document, kwargs: &GenKwargs, texts: &[&str], eos: Option<&str>) -> Result<Scored> {
        let tests = document.target.as_str().unwrap_or_default();
        let eos = || eos.into_iter().filter(|eos| !eos.is_empty());
        let program = |text: &&str| programs::program(&document.context, text, kwargs.until().chain(eos()), tests);
        let programs: Vec<String> = texts.iter().map(program).collect();
        let Some(execute) = self.execute else { return Err(Error::Execution { task: self.task.name.clone() }) };
        let verdicts = execute(&programs)?;
        let right = verdicts.iter().filter(|verdict| *verdict == PASSED).count();
        let figure = |k: usize| Figure {
            filter: "none".into(),
            metric: format!("pass@{k}"),
            value: programs::pass_at(k, texts.len(), right),
            share: Share::Document,
        };
        let figures = [1, 10, 100].into_iter().filter(|k| *k <= texts.len()).map(figure).collect();
        let filtered = verdicts.into_iter().map(|verdict| ("verdict".to_owned(), verdict)).collect();
        Ok(Scored { filtered, figures })
    }

    /// What is counted is the target, where a task has one: the text before it was made into the one that is scored.
    fn rolling(&self, document: &Document, sum: f64) -> Scored {
        let text = document.target.as_str().filter(|target| !target.is_empty()).unwrap_or(&document.context);
        let words = text::pieces(text) as f64;
        let bytes = text.len() as f64;
        let figure =
            |metric: &str, units| Figure { filter: "none".into(), metric: metric.into(), value: sum, share: Share::Units(units) };
        let figures = vec![figure("word_perplexity", words), figure("byte_perplexity", bytes), figure("bits_per_byte", bytes)];
        Scored { filtered: Vec::new(), figures }
    }

    fn normal(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for ignore in &self.ignore {
            text = ignore.replace_all(&text, "").into_owned();
        }
        if self.task.exact_match.ignore_case {
            text = text.to_lowercase();
        }
        if self.task.exact_match.ignore_punctuation {
            text.retain(|c| !c.is_ascii_punctuation());
        }
        // The harness compares fixed-width strings, in which these are padding.
        text.trim_end_matches('\0').to_owned()
    }
}

/// The first group that took part in the first or last match, without spaces around it.
fn extract(regex: &Regex, last: bool, text: &str) -> String {
    let mut matches = regex.captures_iter(text);
    let found = if last { matches.last() } else { matches.next() };
    let Some(found) = found else { return INVALID.into() };
    let whole = found.get(0).map_or("", |m| m.as_str());
    let group = found.iter().skip(1).flatten().map(|m| m.as_str()).find(|group| !group.is_empty());
    text::strip(if found.len() > 1 { group.unwrap_or("") } else { whole }).to_owned()
}

fn first_maximum(values: impl Iterator<Item = f64>) -> usize {
    values.enumerate().fold((0, f64::NEG_INFINITY), |best, (i, v)| if v > best.1 { (i, v) } else { best }).0
}

/// A mean and its standard error; no error of fewer than two values.
pub fn mean(values: &[f64]) -> (f64, Option<f64>) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
    (mean, (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt() / n.sqrt()))
}

/// Mean of tasks weighted by their sizes, with its pooled standard error: `(value, stderr, documents)` each.
pub fn weighted_mean(tasks: &[(f64, Option<f64>, usize)]) -> (f64, Option<f64>) {
    let total: f64 = tasks.iter().map(|(_, _, n)| *n as f64).sum();
    let mean = tasks.iter().map(|(value, _, n)| value * *n as f64).sum::<f64>() / total;
    let pooled: Option<f64> = tasks.iter().map(|(_, e, n)| e.map(|e| (*n as f64 - 1.0) * e * e * *n as f64)).sum();
    (mean, pooled.map(|pooled| (pooled / (total - tasks.len() as f64) / total).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of Python's `statistics` and of the formula in the harness.
    #[test]
    fn means_and_errors() {
        let (value, stderr) = mean(&[1.0, 0.0, 0.0, 1.0, 1.0]);
        assert!((value - 0.6).abs() < 1e-15 && (stderr.unwrap() - 0.244_948_974_278_317_83).abs() < 1e-15);
        assert_eq!(mean(&[1.0]), (1.0, None));
        assert_eq!(weighted_mean(&[(1.0, Some(0.0), 3), (0.0, Some(0.0), 1)]), (0.75, Some(0.0)));
    }

    #[test]
    fn the_last_match_and_its_first_group() {
        let regex = Regex::new(r"(-?[$0-9.,]{2,})|(-?[0-9]+)").unwrap();
        assert_eq!(extract(&regex, true, "a 12.5 b 7"), "7");
        assert_eq!(extract(&regex, false, "a 12.5 b 7"), "12.5");
        assert_eq!(extract(&regex, false, "none"), INVALID);
    }
}
