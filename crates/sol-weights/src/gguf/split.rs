//! A checkpoint split over files `NAME-00001-of-00005.gguf`, opened from any of them.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{File, Metadata};
use crate::error::shown;
use crate::{Bytes, Error, Result, Tensor};

/// A whole checkpoint: its files in order, the metadata of the first, the tensors of all.
pub(crate) struct Set {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<Tensor>,
}

/// Opens a GGUF file and, if it is one part of a split set, all the others.
pub(crate) fn open(path: &Path) -> Result<Set> {
    let opened = Bytes::map_and(path, |bytes| File::parse(path, bytes))?;
    let count = opened.metadata.u64("split.count").unwrap_or(1);
    if count <= 1 {
        return Ok(Set { files: vec![path.to_owned()], metadata: opened.metadata, tensors: opened.tensors });
    }
    let name = SplitName::of(path).filter(|name| u64::from(name.count) == count).ok_or_else(|| {
        let problem = format!("it is part of a checkpoint in {count} files, so its name must end in -00001-of-{count:05}.gguf or the like; rename it back");
        Error::incomplete(path, problem)
    })?;

    // All parts must be there before any is read, so that the message can name every missing one.
    let files: Vec<PathBuf> = (1..=name.count).map(|number| name.part(number)).collect();
    let missing: Vec<String> = files.iter().filter(|file| !file.exists()).map(|file| name_of(file)).collect();
    if !missing.is_empty() {
        let some = missing[..missing.len().min(4)].join(", ");
        let more = if missing.len() > 4 { format!(" and {} more", missing.len() - 4) } else { String::new() };
        return Err(Error::incomplete(path, format!("of its {count} files {some}{more} are missing; download them too")));
    }

    let mut opened = Some(opened);
    let mut metadata = None;
    let mut tensors = Vec::new();
    for (number, file) in (1..).zip(&files) {
        let part = match opened.take_if(|_| number == name.number) {
            Some(part) => part,
            None => Bytes::map_and(file, |bytes| File::parse(file, bytes))?,
        };
        check_part(file, &part.metadata, count, u64::from(number) - 1)?;
        metadata.get_or_insert(part.metadata);
        tensors.extend(part.tensors);
    }
    let metadata = metadata.unwrap_or_default();
    check_whole(&files[0], &metadata, &tensors)?;
    Ok(Set { files, metadata, tensors })
}

/// All files of the set that a file's name makes it a part of; only the file itself when it is none.
pub(crate) fn set_of(path: &Path) -> Vec<PathBuf> {
    match SplitName::of(path) {
        Some(name) => (1..=name.count).map(|number| name.part(number)).collect(),
        None => vec![path.to_owned()],
    }
}

fn check_part(path: &Path, metadata: &Metadata, count: u64, number: u64) -> Result<()> {
    let (found_count, found_number) = (metadata.u64("split.count"), metadata.u64("split.no"));
    if found_count == Some(count) && found_number == Some(number) {
        return Ok(());
    }
    let found = match (found_count, found_number) {
        (Some(count), Some(number)) => format!("part {} of {count}", number.saturating_add(1)),
        _ => "not part of a set".into(),
    };
    let problem = format!("its name says part {} of {count}, its metadata says {found}; download the set again", number + 1);
    Err(Error::incomplete(path, problem))
}

fn check_whole(path: &Path, metadata: &Metadata, tensors: &[Tensor]) -> Result<()> {
    if let Some(expected) = metadata.u64("split.tensors.count")
        && expected != tensors.len() as u64
    {
        let problem =
            format!("the files of the set should have {expected} tensors and have {}; download the set again", tensors.len());
        return Err(Error::incomplete(path, problem));
    }
    let mut names = HashSet::new();
    match tensors.iter().find(|tensor| !names.insert(tensor.name.as_str())) {
        Some(twice) => {
            Err(Error::tensor(twice.path(), &twice.name, "another file of the set has it too; download the set again"))
        }
        None => Ok(()),
    }
}

fn name_of(path: &Path) -> String {
    shown(&path.file_name().unwrap_or_default().to_string_lossy())
}

/// A file name `PREFIX-00002-of-00005.gguf`, taken apart.
struct SplitName<'a> {
    path: &'a Path,
    prefix: &'a str,
    /// From 1.
    number: u32,
    count: u32,
}

impl<'a> SplitName<'a> {
    fn of(path: &'a Path) -> Option<Self> {
        fn five_digits(text: &str) -> Option<u32> {
            (text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
        }
        let stem = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let (number, count) = (five_digits(number)?, five_digits(count)?);
        (1..=count).contains(&number).then_some(Self { path, prefix, number, count })
    }

    fn part(&self, number: u32) -> PathBuf {
        self.path.with_file_name(format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn split_names_are_taken_apart_and_put_together() {
        let name = SplitName::of(Path::new("/m/a-of-b-00002-of-00003.gguf")).unwrap();
        assert_eq!((name.number, name.count), (2, 3));
        assert_eq!(name.part(3), Path::new("/m/a-of-b-00003-of-00003.gguf"));
        for other in [
            "a.gguf",
            "a-2-of-3.gguf",
            "a-00004-of-00003.gguf",
            "a-00000-of-00003.gguf",
            "a-00001-of-00003.bin",
            "-of-.gguf",
            "a-+0001-of-00003.gguf",
        ] {
            assert!(SplitName::of(Path::new(other)).is_none(), "{other}");
        }
    }
}
