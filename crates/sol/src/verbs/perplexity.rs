//! `sol perplexity`.
use std::process::ExitCode;
use crate::common::{Output, RunOptions};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    run: RunOptions,
}

pub(crate) fn run(_args: Args, _output: &Output) -> anyhow::Result<ExitCode> { anyhow::bail!("being written") }
