//! `sol pull`, `sol list`, `sol rm`: the models of this machine.

use std::collections::BTreeSet;
use std::io::{BufRead, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde_json::json;
use sol_hub::{ALIASES, CachedModel, DEFAULT_ALIAS, Hub, ModelRef};

use crate::common::{ModelArg, Output, bytes, note, print};

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sol pull solar-pro
  sol pull org/repo:Q4_K_M                         # one quantisation of a repository
  sol inspect $(sol pull -q smollm2)

An interrupted download goes on where it stopped. HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they
mean to the hub's own client.")]
pub(crate) struct PullArgs {
    /// org/repo[@revision][:file], or an alias
    #[arg(default_value = DEFAULT_ALIAS)]
    model: String,
}

pub(crate) fn pull(args: PullArgs, output: &Output) -> Result<ExitCode> {
    let path = ModelArg { model: args.model.clone() }.resolve(output)?;
    if output.json {
        print(&serde_json::to_string_pretty(&json!({ "model": args.model, "path": path }))?)?;
    } else {
        print(&path.display().to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "A mark (*) stands before the aliases of models that are here. -v shows where the files are.")]
pub(crate) struct ListArgs {}

pub(crate) fn list(_: ListArgs, output: &Output) -> Result<ExitCode> {
    let hub = Hub::from_env()?;
    let models = hub.list()?;
    let aliases: Vec<_> = ALIASES.iter().map(|alias| (alias, is_here(&hub, alias.name))).collect();
    if output.json {
        let aliases: Vec<_> = aliases
            .iter()
            .map(|(alias, here)| json!({ "name": alias.name, "repo": alias.repo, "about": alias.about, "here": here }))
            .collect();
        print(&serde_json::to_string_pretty(&json!({ "models": models, "aliases": aliases }))?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if models.is_empty() {
        print(&format!("No models are on this machine yet; sol pull {DEFAULT_ALIAS} obtains the default one."))?;
    } else {
        print(&table(&models, output))?;
    }
    let width = aliases.iter().map(|(alias, _)| alias.name.len()).max().unwrap_or(0);
    let lines = aliases.iter().map(|(alias, here)| {
        let mark = if *here { '*' } else { ' ' };
        format!("\n{mark} {:width$}  {} ({})", alias.name, alias.about, alias.repo)
    });
    print(&format!("\nAliases:{}", lines.collect::<String>()))?;
    Ok(ExitCode::SUCCESS)
}

fn is_here(hub: &Hub, alias: &str) -> bool {
    ModelRef::parse(alias).is_ok_and(|model| hub.cached(&model).is_some())
}

fn table(models: &[CachedModel], output: &Output) -> String {
    let header = ["NAME", "REVISION", "SIZE", "MODIFIED", if output.verbose > 0 { "PATH" } else { "" }].map(str::to_owned);
    let rows = models.iter().map(|model| {
        let path = if output.verbose > 0 { model.path.display().to_string() } else { String::new() };
        let size = match model.unfinished {
            0 => bytes(model.size),
            unfinished => format!("{} so far", bytes(unfinished)),
        };
        [model.name.clone(), revision(model), size, model.modified.map_or_else(String::new, age), path]
    });
    let rows: Vec<[String; 5]> = std::iter::once(header).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let lines = rows.iter().map(|[name, revision, size, modified, path]| {
        let [a, b, c, d] = widths;
        format!("{name:a$}  {revision:b$}  {size:>c$}  {modified:d$}  {path}").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The beginning of the commit, with the branches that are at it.
fn revision(model: &CachedModel) -> String {
    let commit = model.commit.as_deref().map(|commit| commit[..commit.len().min(8)].to_owned());
    match (commit, model.revisions.as_slice()) {
        (None, _) if model.unfinished > 0 => "(unfinished)".to_owned(),
        (None, _) => "-".to_owned(),
        (Some(commit), []) => commit,
        (Some(commit), names) => format!("{commit} ({})", names.join(", ")),
    }
}

/// How long ago.
fn age(seconds: u64) -> String {
    let then = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let passed = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    let units = [(365 * 86400, "year"), (30 * 86400, "month"), (86400, "day"), (3600, "hour"), (60, "minute")];
    match units.iter().find(|(length, _)| passed >= *length) {
        None => "just now".to_owned(),
        Some((length, unit)) => match passed / length {
            1 => format!("1 {unit} ago"),
            n => format!("{n} {unit}s ago"),
        },
    }
}

/// Arguments.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  sol rm solar-pro
  sol rm org/repo@v1.0                             # one revision; what another one uses stays
  sol rm --yes org/repo:Q4_K_M")]
pub(crate) struct RmArgs {
    /// org/repo[@revision][:file], or an alias, as `sol list` shows them
    model: String,
    /// Do not ask; on anything but a terminal nothing is asked anyway
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn rm(args: RmArgs, output: &Output) -> Result<ExitCode> {
    let hub = Hub::from_env()?;
    let model = ModelRef::parse(&args.model)?;
    let ask = !args.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    if ask && is_listed(&hub, &model)? && !confirmed(&model)? {
        note(output, "nothing was removed");
        return Ok(ExitCode::FAILURE);
    }
    let removed = hub.remove(&model)?;
    if output.json {
        print(&serde_json::to_string_pretty(&json!({ "model": args.model, "removed": removed }))?)?;
    } else if !output.quiet {
        print(&format!("removed {model}: {} freed", bytes(removed.freed)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether there is something of it that could be removed; if not, there is nothing to ask.
fn is_listed(hub: &Hub, model: &ModelRef) -> Result<bool> {
    let names: BTreeSet<String> = hub.list()?.into_iter().map(|cached| cached.name).collect();
    Ok(match model {
        ModelRef::Default => hub.cached(model).is_some() || names.contains(DEFAULT_ALIAS),
        ModelRef::Repo { repo, .. } => names.contains(repo),
        ModelRef::Path(_) => false,
    })
}

fn confirmed(model: &ModelRef) -> Result<bool> {
    let mut err = std::io::stderr();
    write!(err, "Remove {model} from this machine? [y/N] ").and_then(|()| err.flush()).context("can not ask")?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).context("can not read the answer")?;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_rounded_down() {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        for (ago, text) in
            [(0, "just now"), (59, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (3 * 86400, "3 days ago")]
        {
            assert_eq!(age(now - ago), text);
        }
        assert_eq!(age(now + 100), "just now");
    }

    #[test]
    fn tables_line_up() {
        let model = |name: &str, commit: Option<&str>, size, unfinished| CachedModel {
            name: name.to_owned(),
            commit: commit.map(str::to_owned),
            revisions: commit.map(|_| "main".to_owned()).into_iter().collect(),
            files: Vec::new(),
            size,
            unfinished,
            path: "/x".into(),
            modified: None,
        };
        let models = [
            model("org/name", Some("0123456789abcdef0123456789abcdef01234567"), 98_400_000, 0),
            model("org/half", None, 0, 1000),
            model("smollm2", None, 5, 0),
        ];
        let output = Output { json: false, quiet: false, verbose: 0 };
        let expected = "NAME      REVISION                  SIZE  MODIFIED\n\
                        org/name  01234567 (main)        98.4 MB\n\
                        org/half  (unfinished)     1.0 kB so far\n\
                        smollm2   -                          5 B";
        assert_eq!(table(&models, &output), expected);
    }
}
