//! A task from its rows to its figures.

use crate::Error;
use crate::Result;
use crate::document::{Answer, Document, Scored};
use crate::log::{AnswerLog, Recorded};
use crate::metrics::{Execute, Metrics};
use crate::model::Model;
use crate::prompt::{Prepared, Settings};
use crate::results::{Tally, TaskResult};
use crate::task::{Judge, Kind};

/// Who answers.
pub enum Source<'a> {
    /// A model, and where its answers are kept.
    Model(&'a mut dyn Model, Option<&'a mut AnswerLog>),
    /// A file; what ends its answers.
    Recorded(&'a Recorded, &'a str),
}

/// Who hears of a run's progress.
pub trait Listener {
    /// An answer came; `known` where an earlier run had asked.
    fn answered(&mut self, known: bool);

    /// The figures so far, of documents in any order.
    fn scored(&mut self, scored: &Scored);

    /// A document is done; in their order.
    fn done(&mut self, document: &Document, answer: &Answer, scored: &Scored) -> Result<()>;
}

/// Documents that are asked at once. Rows are few beside their prompts, so memory stays flat however long a test is.
const WINDOW: usize = 256;
/// Answers that are generated side by side drain at the end of a window, so those are longer.
const GENERATED_WINDOW: usize = 4096;

/// Asks a task's documents and scores the answers. `execute` runs the programs of tasks whose answers are some.
pub fn run(
    prepared: &Prepared,
    settings: &Settings<'_>,
    source: &mut Source<'_>,
    execute: Option<&Execute<'_>>,
    stop: &dyn Fn() -> bool,
    listener: &mut dyn Listener,
) -> Result<TaskResult> {
    let task = prepared.task();
    let metrics = Metrics::new(task, prepared.random(), execute)?;
    let eos = match source {
        Source::Model(model, _) => model.eos(),
        Source::Recorded(_, eos) => Some((*eos).to_owned()),
    };
    // IFEval draws from a generator, document after document.
    let in_order = task.judge == Some(Judge::Ifeval);
    let size = if task.kind == Kind::GenerateUntil { GENERATED_WINDOW } else { WINDOW };
    let mut tally = Tally::new(task);
    let mut window: Vec<Document> = Vec::new();
    let mut flush = |window: &mut Vec<Document>, tally: &mut Tally| -> Result<()> {
        let mut scored: Vec<Option<Scored>> = vec![None; window.len()];
        let score = |i: usize, answer: &Answer| metrics.score(&window[i], answer, eos.as_deref());
        let answers = answers(window, source, stop, &mut |i, answer, known| {
            listener.answered(known);
            if !in_order {
                listener.scored(scored[i].insert(score(i, answer)?));
            }
            Ok(())
        })?;
        for (i, answer) in answers.iter().enumerate() {
            let scored = match scored[i].take() {
                Some(scored) => scored,
                None => score(i, answer)?,
            };
            if in_order {
                listener.scored(&scored);
            }
            listener.done(&window[i], answer, &scored)?;
            tally.push(&window[i], scored);
        }
        window.clear();
        Ok(())
    };
    prepared.documents(settings, &mut |document| {
        window.push(document);
        if window.len() == size { flush(&mut window, &mut tally) } else { Ok(()) }
    })?;
    flush(&mut window, &mut tally)?;
    Ok(tally.finish(prepared))
}

fn answers(
    documents: &[Document],
    source: &mut Source<'_>,
    stop: &dyn Fn() -> bool,
    came: &mut dyn FnMut(usize, &Answer, bool) -> Result<()>,
) -> Result<Vec<Answer>> {
    let mut answers: Vec<Option<Answer>> = vec![None; documents.len()];
    match source {
        Source::Recorded(recorded, _) => {
            for (i, document) in documents.iter().enumerate() {
                if let Some(answer) = recorded.answer(document)? {
                    came(i, &answer, true)?;
                    answers[i] = Some(answer);
                }
                if stop() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Source::Model(model, log) => {
            let mut open = Vec::new();
            for (i, document) in documents.iter().enumerate() {
                match log.as_ref().and_then(|log| log.answer(document)) {
                    Some(answer) => {
                        came(i, &answer, true)?;
                        answers[i] = Some(answer);
                    }
                    None => open.push(i),
                }
            }
            let asked: Vec<Document> = open.iter().map(|i| documents[*i].clone()).collect();
            model.answer(&asked, stop, &mut |at, answer| {
                if let Some(log) = log {
                    log.push(&asked[at], &answer)?;
                }
                came(open[at], &answer, false)?;
                answers[open[at]] = Some(answer);
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
