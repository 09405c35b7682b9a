//! A task from its rows to its figures.

use crate::document::{Answer, Document, Scored};
use crate::log::{AnswerLog, Recorded};
use crate::metrics::Metrics;
use crate::model::Local;
use crate::prompt::{Prepared, Settings};
use crate::results::{TaskResult, aggregate};
use crate::task::Kind;
use crate::{Error, Result};

/// Who answers.
pub enum Source<'a, 'm> {
    /// The engine of this process, and where its answers are kept.
    Model(&'a mut Local<'m>, Option<&'a mut AnswerLog>),
    /// A file; what ends its answers.
    Recorded(&'a Recorded, &'a str),
}

/// Documents that are asked at once. Rows are few beside their prompts, so memory stays flat however long a test is.
const WINDOW: usize = 256;
/// Answers that are generated side by side drain at the end of a window, so those are longer.
const GENERATED_WINDOW: usize = 4096;

/// Asks a task's documents and scores the answers; `done` hears of every answer and whether the log had it.
pub fn run(
    prepared: &Prepared,
    settings: &Settings<'_>,
    source: &mut Source<'_, '_>,
    stop: &dyn Fn() -> bool,
    done: &mut dyn FnMut(bool),
) -> Result<TaskResult> {
    let task = prepared.task();
    let metrics = Metrics::new(task, prepared.random())?;
    let eos = match source {
        Source::Model(model, _) => model.eos(),
        Source::Recorded(_, eos) => Some((*eos).to_owned()),
    };
    let size = if task.kind == Kind::GenerateUntil { GENERATED_WINDOW } else { WINDOW };
    let mut scored = Vec::new();
    let mut window: Vec<Document> = Vec::new();
    let mut flush = |window: &mut Vec<Document>, scored: &mut Vec<Scored>| -> Result<()> {
        let answers = answers(window, source, stop, done)?;
        for (document, answer) in window.iter().zip(&answers) {
            scored.push(metrics.score(document, answer, eos.as_deref())?);
        }
        window.clear();
        Ok(())
    };
    prepared.documents(settings, &mut |document| {
        window.push(document);
        if window.len() == size { flush(&mut window, &mut scored) } else { Ok(()) }
    })?;
    flush(&mut window, &mut scored)?;
    Ok(TaskResult {
        task: task.clone(),
        n_shot: prepared.n_shot(),
        original: prepared.len(),
        effective: scored.len(),
        figures: aggregate(&scored),
    })
}

fn answers(
    documents: &[Document],
    source: &mut Source<'_, '_>,
    stop: &dyn Fn() -> bool,
    done: &mut dyn FnMut(bool),
) -> Result<Vec<Answer>> {
    let mut answers: Vec<Option<Answer>> = vec![None; documents.len()];
    match source {
        Source::Recorded(recorded, _) => {
            for (document, answer) in documents.iter().zip(&mut answers) {
                *answer = recorded.answer(document)?;
                done(true);
            }
        }
        Source::Model(model, log) => {
            let mut open = Vec::new();
            for (i, document) in documents.iter().enumerate() {
                answers[i] = log.as_ref().and_then(|log| log.answer(document));
                if answers[i].is_some() {
                    done(true);
                } else {
                    open.push(i);
                }
            }
            let asked: Vec<Document> = open.iter().map(|i| documents[*i].clone()).collect();
            model.answer(&asked, stop, &mut |at, answer| {
                if let Some(log) = log {
                    log.push(&asked[at], &answer)?;
                }
                answers[open[at]] = Some(answer);
                done(false);
                Ok(())
            })?;
        }
    }
    let missing = |(document, answer): (&Document, Option<Answer>)| {
        let problem = || Error::Document {
            task: document.task.to_string(),
            doc_id: document.doc_id,
            problem: "there is no answer to it; --limit asks fewer".into(),
        };
        answer.ok_or_else(problem)
    };
    documents.iter().zip(answers).map(missing).collect()
}
