//! Runs that are done: a page of one, the difference of two.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use sol_eval::report::{Run, compare, html};

use crate::common::{Output, note, print};

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Where two runs differ, and whether by more than chance: paired, document by document
    #[command(
        after_help = "Both must have been run with --log-samples (lm-evaluation-harness: --log_samples). The last column is a p value: McNemar's exact \
        test where answers are right or wrong, a paired t test otherwise; corrected for the number of tasks (Holm)."
    )]
    Compare {
        /// A folder that --output named, or one of lm-evaluation-harness
        a: PathBuf,
        /// The other
        b: PathBuf,
        /// Items that changed, at most
        #[arg(long, value_name = "N", default_value_t = 20)]
        items: usize,
    },
    /// A page of a run with --log-samples: table, charts, every item
    Report {
        /// A folder that --output named, or one of lm-evaluation-harness
        run: PathBuf,
        /// The page
        #[arg(value_name = "FILE.html")]
        to: PathBuf,
    },
}

pub(super) fn run(verb: &Verb, output: &Output) -> Result<ExitCode> {
    match verb {
        Verb::Report { run, to } => page(run, to, output)?,
        Verb::Compare { a, b, items } => {
            let comparison = compare(&Run::open(a)?, &Run::open(b)?)?;
            if output.json {
                print(&serde_json::to_string_pretty(&comparison.to_json())?)?;
                return Ok(ExitCode::SUCCESS);
            }
            print(comparison.table().trim_end())?;
            let changes = &comparison.changes;
            if !changes.is_empty() {
                print(&format!("\n{} figures of items changed{}", changes.len(), more(changes.len(), *items)))?;
            }
            for change in changes.iter().take(*items) {
                let sol_eval::report::Change { task, doc_id, metric, filter, a, b, question } = change;
                let filter = if filter == "none" { String::new() } else { format!(" ({filter})") };
                print(&format!("{task} {doc_id}, {metric}{filter}: {a} -> {b}  {question}"))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn more(there: usize, shown: usize) -> String {
    if there > shown { format!("; the first {shown} (--items, --json):") } else { ":".to_owned() }
}

/// Writes the page of a run.
pub(super) fn page(run: &Path, to: &Path, output: &Output) -> Result<()> {
    let shown = || format!("can not write {}", to.display());
    let mut file = BufWriter::new(sol_eval::samples::beside(to).with_context(shown)?);
    html(&Run::open(run)?, &mut file)?;
    file.flush().with_context(shown)?;
    file.into_inner().map_err(std::io::IntoInnerError::into_error).with_context(shown)?.persist(to).with_context(shown)?;
    note(output, &format!("the report is {}", to.display()));
    Ok(())
}
