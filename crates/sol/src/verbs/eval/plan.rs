//! What is run with which settings.

use std::sync::Arc;

use anyhow::Result;
use sol_eval::suite::Suite;
use sol_eval::task::{Registry, Task};

use super::Args;

/// Tasks that are run with the same settings, as one call of the harness would.
pub(super) struct Part {
    /// The row of a suite, or nothing.
    pub(super) name: String,
    pub(super) tasks: Vec<Arc<Task>>,
    pub(super) num_fewshot: Option<usize>,
    pub(super) chat: bool,
}

/// All parts of a run.
pub(super) struct Plan {
    pub(super) suite: Option<Suite>,
    pub(super) parts: Vec<Part>,
}

pub(super) fn parts(args: &Args, registry: &Registry) -> Result<Plan> {
    let Some(name) = &args.suite else {
        let (num_fewshot, chat) = (args.num_fewshot, args.apply_chat_template.is_some());
        let part = Part { name: String::new(), tasks: registry.select(&args.tasks)?, num_fewshot, chat };
        return Ok(Plan { suite: None, parts: vec![part] });
    };
    let suite = Suite::built_in(name)?;
    let part = |row: &sol_eval::suite::Row| -> Result<Part> {
        let tasks = registry.select(&row.tasks)?;
        Ok(Part { name: row.name.clone(), tasks, num_fewshot: row.num_fewshot, chat: row.chat })
    };
    let parts = suite.rows.iter().map(part).collect::<Result<_>>()?;
    Ok(Plan { suite: Some(suite), parts })
}
