//! Files that change while they are mapped.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use sol_weights::{Bytes, Checkpoint, DType, Error, safetensors};
use tempfile::TempDir;

/// Long enough to have pages apart on any machine.
const LEN: usize = 1 << 20;

fn write(dir: &TempDir, name: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, vec![7; LEN]).unwrap();
    path
}

fn cut(path: &Path, len: usize) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len as u64).unwrap();
}

/// Time stamps of files are a few milliseconds coarse.
fn wait_for_the_clock() {
    std::thread::sleep(Duration::from_millis(30));
}

fn is_changed(error: &Error, words: &str) -> bool {
    matches!(error, Error::ChangedInUse { .. }) && error.to_string().contains(words)
}

#[test]
fn a_file_that_becomes_shorter_reads_as_zeros_and_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (path, other) = (write(&dir, "a"), write(&dir, "b"));
    let (bytes, other) = (Bytes::map(&path).unwrap(), Bytes::map(&other).unwrap());
    assert!(bytes.iter().all(|b| *b == 7));
    cut(&path, 100);
    let tail = bytes.slice(LEN - 5..LEN);
    bytes.intact().expect("nothing was read that is not there");
    assert!(is_changed(&bytes.unchanged().unwrap_err(), "100 of 1048576 bytes are left"));
    assert_eq!((&*tail, bytes[0]), (&[0; 5][..], 7));
    for error in [bytes.intact(), tail.intact()] {
        assert!(is_changed(&error.unwrap_err(), "shorter"));
    }
    assert!(other.iter().all(|b| *b == 7));
    other.intact().unwrap();
    // What was missed stays missed.
    cut(&path, LEN);
    assert!(is_changed(&bytes.intact().unwrap_err(), "written to"));
    Bytes::map(&path).unwrap().intact().unwrap();
}

#[test]
fn many_threads_read_many_files_that_vanish_under_them() {
    let dir = tempfile::tempdir().unwrap();
    let paths: Vec<PathBuf> = (0..20).map(|i| write(&dir, &i.to_string())).collect();
    let maps: Vec<Bytes> = paths.iter().map(|path| Bytes::map(path).unwrap()).collect();
    std::thread::scope(|scope| {
        for start in 0..4 {
            let maps = &maps;
            scope.spawn(move || {
                for bytes in maps.iter().cycle().skip(5 * start).take(200) {
                    assert!(bytes.iter().step_by(512).all(|b| [0, 7].contains(b)));
                }
            });
        }
        // Mappings come and go meanwhile.
        for path in &paths {
            cut(path, 0);
            Bytes::map(&write(&dir, "more")).unwrap().intact().unwrap();
        }
    });
    for bytes in &maps {
        assert_eq!(bytes[LEN / 2], 0);
        assert!(is_changed(&bytes.intact().unwrap_err(), "0 of 1048576"));
    }
}

#[test]
fn a_file_that_is_written_to_is_refused_and_one_that_is_replaced_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    safetensors::write(&path, &[("t", DType::F32, &[1], &[0; 4])]).unwrap();
    let checkpoint = || Checkpoint::open(&path).unwrap();

    let opened = checkpoint();
    wait_for_the_clock();
    fs::remove_file(&path).unwrap();
    opened.unchanged().expect("deleted");
    safetensors::write(&path, &[("t", DType::F32, &[1], &[1; 4])]).unwrap();
    opened.unchanged().expect("another file of the same name");
    assert_eq!(opened.tensor("t").unwrap().to_f32().unwrap(), [0.0]);
    opened.intact().unwrap();

    let opened = checkpoint();
    wait_for_the_clock();
    let len = fs::metadata(&path).unwrap().len();
    OpenOptions::new().write(true).open(&path).unwrap().write_all_at(&[9; 4], len - 4).unwrap();
    opened.intact().expect("nothing is missing");
    assert!(is_changed(&opened.unchanged().unwrap_err(), "written to"));
    checkpoint().unchanged().unwrap();
}

#[test]
fn a_tensor_of_a_file_that_was_cut_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    for dtype in [DType::F32, DType::I32] {
        safetensors::write(&path, &[("t", dtype, &[LEN / 4], &[1; LEN])]).unwrap();
        let opened = Checkpoint::open(&path).unwrap();
        cut(&path, LEN / 2);
        let tensor = opened.tensor("t").unwrap();
        let error = if dtype == DType::F32 { tensor.to_f32().unwrap_err() } else { tensor.to_i64().unwrap_err() };
        assert!(is_changed(&error, "shorter"), "{error}");
        assert!(is_changed(&opened.intact().unwrap_err(), "shorter"));
    }
}

#[test]
fn a_fault_in_another_mapping_ends_the_process_as_ever() {
    const CHILD: &str = "SOL_TEST_FAULT";
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os(CHILD).is_some() {
        let watched = Bytes::map(&write(&dir, "watched")).unwrap();
        let path = write(&dir, "other");
        // SAFETY: read only, and never again after it was cut, as the process ends then.
        let other = unsafe { memmap2::Mmap::map(&File::open(&path).unwrap()) }.unwrap();
        cut(&path, 0);
        println!("{}", watched[0] + std::hint::black_box(&other)[LEN / 2]);
        return;
    }
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "changed::a_fault_in_another_mapping_ends_the_process_as_ever"]);
    let output = child.env(CHILD, "1").env("TMPDIR", dir.path()).output().unwrap();
    assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{output:?}");
}

/// A name that was given to another file, and a file that was written to, are not what was opened.
#[test]
fn a_file_is_opened_again_only_if_it_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let make = |path: &Path| safetensors::write(path, &[("a", DType::U8, &[4], b"abcd")]).unwrap();
    make(&path);
    let checkpoint = Checkpoint::open(&path).unwrap();
    checkpoint.reopen(&path).unwrap();
    let other = dir.path().join("other.safetensors");
    make(&other);
    fs::rename(&other, &path).unwrap();
    assert!(is_changed(&checkpoint.reopen(&path).unwrap_err(), "another file has its name"));
    checkpoint.unchanged().unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    cut(&path, 20);
    assert!(is_changed(&checkpoint.reopen(&path).unwrap_err(), "bytes are left"));
}
