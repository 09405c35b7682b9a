//! What is run with which settings.

use std::sync::Arc;

use anyhow::Result;
use sol_eval::log::Recorded;
use sol_eval::suite::Suite;
use sol_eval::task::{Judge, Registry, Task};

use super::Args;
use crate::common::{Output, note};

/// Tasks that are run with the same settings, as one call of the harness would.
pub(super) struct Part {
    /// The row of a suite, or nothing.
    pub(super) name: String,
    pub(super) tasks: Vec<Arc<Task>>,
    pub(super) num_fewshot: Option<usize>,
    pub(super) chat: bool,
    /// Why it is not run.
    pub(super) left_out: Option<&'static str>,
}

/// All parts of a run.
pub(super) struct Plan {
    pub(super) suite: Option<Suite>,
    pub(super) parts: Vec<Part>,
}

impl Plan {
    /// Leaves out the rows of a table that can not be had: a table is worth having without them.
    pub(super) fn leave_out(&mut self, args: &Args, recorded: Option<&Recorded>, output: &Output) {
        for part in &mut self.parts {
            let runs_code = part.tasks.iter().any(|task| task.judge == Some(Judge::Programs));
            part.left_out = match recorded {
                Some(recorded) if !part.tasks.iter().any(|task| recorded.has(&task.name)) => Some("there are no answers to it"),
                _ if runs_code && !args.allow_code_execution && args.requests.is_none() => {
                    Some("it runs programs that a model wrote; --allow-code-execution lets it")
                }
                _ => None,
            };
            if let Some(why) = part.left_out {
                note(output, &format!("{} is left out: {why}", part.name));
            }
        }
    }
}

pub(super) fn parts(args: &Args, registry: &Registry) -> Result<Plan> {
    let Some(name) = &args.suite else {
        let (num_fewshot, chat) = (args.num_fewshot, args.apply_chat_template.is_some());
        let part = Part { name: String::new(), tasks: registry.select(&args.tasks)?, num_fewshot, chat, left_out: None };
        return Ok(Plan { suite: None, parts: vec![part] });
    };
    let suite = Suite::built_in(name)?;
    let part = |row: &sol_eval::suite::Row| -> Result<Part> {
        let tasks = registry.select(&row.tasks)?;
        Ok(Part { name: row.name.clone(), tasks, num_fewshot: row.num_fewshot, chat: row.chat, left_out: None })
    };
    let parts = suite.rows.iter().map(part).collect::<Result<_>>()?;
    Ok(Plan { suite: Some(suite), parts })
}
