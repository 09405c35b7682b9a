//! `sol pull, list, rm`.
use std::process::ExitCode;
use crate::common::{Output, ModelArg};

/// Arguments.
#[derive(clap::Args)]
pub(crate) struct PullArgs {
    #[command(flatten)]
    model: ModelArg,
}

pub(crate) fn pull(_args: PullArgs, _output: &Output) -> anyhow::Result<ExitCode> { anyhow::bail!("being written") }
/// Arguments.
#[derive(clap::Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    model: ModelArg,
}

pub(crate) fn list(_args: ListArgs, _output: &Output) -> anyhow::Result<ExitCode> { anyhow::bail!("being written") }
/// Arguments.
#[derive(clap::Args)]
pub(crate) struct RmArgs {
    #[command(flatten)]
    model: ModelArg,
}

pub(crate) fn rm(_args: RmArgs, _output: &Output) -> anyhow::Result<ExitCode> { anyhow::bail!("being written") }
