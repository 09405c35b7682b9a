//! What a run leaves on disk.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use sol_eval::data;
use sol_eval::prompt::{Prepared, request_line};
use sol_eval::task::ROWS;

use super::Ready;
use crate::common::Bars;

pub(super) fn requests(file: &Path, ready: &[Ready<'_>]) -> Result<ExitCode> {
    let shown = || format!("can not write {}", file.display());
    let mut out = BufWriter::new(File::create(file).with_context(shown)?);
    for Ready { prepared, settings, .. } in ready {
        for prepared in prepared {
            prepared.documents(settings, &mut |document| {
                let io = |source| sol_eval::Error::Io { path: file.into(), source };
                writeln!(out, "{}", request_line(&document)).map_err(io)
            })?;
        }
    }
    out.flush().with_context(shown)?;
    Ok(ExitCode::SUCCESS)
}

/// What each task's rows were read from.
pub(super) fn origins(data: &data::Source, ready: &[Ready<'_>], bars: &Bars) -> Result<Map<String, Value>> {
    let origin = |prepared: &Prepared| -> Result<(String, Value)> {
        let task = prepared.task();
        let origin = data.describe(&task.location(), ROWS, bars)?;
        Ok((task.name.clone(), serde_json::to_value(origin)?))
    };
    ready.iter().flat_map(|ready| &ready.prepared).map(origin).collect()
}

/// A file that is there whole or not at all.
pub(super) fn whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let shown = || format!("can not write {}", path.display());
    let mut file = sol_eval::samples::beside(path).with_context(shown)?;
    file.write_all(bytes).with_context(shown)?;
    file.persist(path).with_context(shown)?;
    Ok(())
}
