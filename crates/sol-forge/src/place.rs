//! Where a result may be put.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Refuses a result at `out` that would take the place of one of these files or directories, or of a directory that one of
/// them is in, by whatever name ([`Error::OverBase`]).
pub fn spare<'a>(sources: impl IntoIterator<Item = &'a PathBuf>, out: &Path) -> Result<()> {
    // What is not there is in nobody's place.
    let Ok(place) = out.canonicalize() else { return Ok(()) };
    let is_lost = |source: &PathBuf| {
        // A link may be lost as well as what it leads to.
        let folder = source.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        let within = |path: &Path| path.canonicalize().is_ok_and(|path| path.starts_with(&place));
        within(source) || within(folder) || same_file(source, &place)
    };
    match sources.into_iter().any(is_lost) {
        true => Err(Error::OverBase { path: out.into() }),
        false => Ok(()),
    }
}

/// Whether both are names of one file.
#[cfg(unix)]
fn same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| fs::metadata(path).map(|meta| (meta.dev(), meta.ino()));
    matches!((id(a), id(b)), (Ok(a), Ok(b)) if a == b)
}

#[cfg(not(unix))]
fn same_file(_a: &Path, _b: &Path) -> bool {
    false
}

/// Sees that the names in a directory are on the disk.
#[cfg(unix)]
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    let dir = if dir == Path::new("") { Path::new(".") } else { dir };
    match File::open(dir)?.sync_all() {
        // File systems that have no such call.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        done => done,
    }
}

#[cfg(not(unix))]
pub(crate) fn sync_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// Writes a file and sees that it is on the disk.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_spared_by_every_name() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("run/checkpoint")).unwrap();
        fs::create_dir(at("other")).unwrap();
        fs::write(at("run/checkpoint/model"), "model").unwrap();
        fs::write(at("other/text"), "text").unwrap();
        let source = [at("run/checkpoint/model")];
        let lost = |out: &str| matches!(spare(&source, &at(out)), Err(Error::OverBase { .. }));
        for out in ["run/checkpoint/model", "run/checkpoint", "run", "other/../run", ""] {
            assert!(lost(out), "{out}");
        }
        for out in ["other", "other/text", "run/checkpoint/new", "new"] {
            assert!(!lost(out), "{out}");
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(at("run"), at("link")).unwrap();
            std::os::unix::fs::symlink(at("run/checkpoint/model"), at("other/linked")).unwrap();
            fs::hard_link(at("run/checkpoint/model"), at("hard")).unwrap();
            assert!(lost("link") && lost("other/linked") && lost("hard"));
            // A source that is a link: neither it nor what it leads to.
            let linked = [at("other/linked")];
            assert!(spare(&linked, &at("other")).is_err() && spare(&linked, &at("run")).is_err());
        }
    }
}
