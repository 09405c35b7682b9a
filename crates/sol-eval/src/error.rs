//! What can go wrong.

use std::path::PathBuf;

/// Errors of this crate. Each message says what was wrong, where, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No task or group has this name.
    #[error("there is no task or group '{name}'{}; `sol eval --list` names them all", near_names(.near))]
    UnknownTask {
        /// What was asked for.
        name: String,
        /// Names that look like it, best first.
        near: Vec<String>,
    },
    /// No suite has this name.
    #[error("there is no suite '{name}'; there is {}", .names.join(", "))]
    UnknownSuite {
        /// What was asked for.
        name: String,
        /// Names that there are.
        names: Vec<String>,
    },
    /// A task file that can not be used.
    #[error("task file {file}: {problem}")]
    TaskFile {
        /// Path, or name of a built-in one.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A data file that can not be used.
    #[error("{}{}: {problem}", .file.display(), at_line(.line))]
    Data {
        /// Where.
        file: PathBuf,
        /// 1-based line, or row of a Parquet file.
        line: Option<usize>,
        /// What is wrong.
        problem: String,
    },
    /// Rows that a task needs are not there.
    #[error("the data of task '{task}' is missing: {problem}")]
    NoData {
        /// Which task.
        task: String,
        /// What was looked for where, and what to do.
        problem: String,
    },
    /// A row that a task can not make a request or a figure of.
    #[error("task '{task}', document {doc_id}: {problem}")]
    Document {
        /// Which task.
        task: String,
        /// 0-based.
        doc_id: usize,
        /// What is wrong.
        problem: String,
    },
    /// A task whose answers are programs, and nobody to run them.
    #[error("task '{task}' runs programs that a model wrote; say --allow-code-execution if it may")]
    Execution {
        /// Which task.
        task: String,
    },
    /// A file could not be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Programs that a model wrote can not be run.
    #[error("{problem}")]
    Sandbox {
        /// What is wrong, and what to do.
        problem: String,
    },
    /// A report could not be written.
    #[error("the report could not be written: {0}")]
    Report(std::io::Error),
    /// A model's server that does not answer, or not as it should.
    #[error("{url}: {problem}")]
    Server {
        /// What was asked.
        url: String,
        /// What went wrong, and what to do.
        problem: String,
    },
    /// A model's server that refuses.
    #[error("{url} answered {status}{message}{hint}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the server says.
        message: String,
        /// What to do.
        hint: String,
    },
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// The engine's.
    #[error(transparent)]
    Engine(#[from] sol_engine::Error),
    /// The hub's.
    #[error(transparent)]
    Hub(#[from] sol_hub::Error),
    /// A tokenizer's or template's.
    #[error(transparent)]
    Text(#[from] sol_text::Error),
}

fn near_names(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (did you mean {}?)", names.join(", ")),
    }
}

fn at_line(line: &Option<usize>) -> String {
    line.map(|line| format!(", line {line}")).unwrap_or_default()
}
