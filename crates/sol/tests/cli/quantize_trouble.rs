//! `sol quantize` and `sol imatrix` where something goes wrong: whatever it is, nothing half-written passes for a checkpoint.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Machine, Outcome, fixture, outcome};

/// Whatever is there of these names, hidden files too.
fn left(machine: &Machine, part: &str) -> Vec<String> {
    let names = fs::read_dir(machine.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(part)).collect()
}

/// A model that takes half a second and more to quantise, 65 MB.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.run(&["synth", "--like", "smollm2", "--layers", "9", "--type", "q8_0", "-q", "-o", "model.gguf"]).ok();
    machine
}

const QUANTIZE: [&str; 9] = ["quantize", "-q", "-m", "model.gguf", "--threads", "1", "--pure", "iq4_nl", "-o"];

/// Does something to it once its unfinished file is there, and waits for its end. A file that was whole before that, on a machine
/// that is slow to come back here, is another try.
fn caught(machine: &Machine, act: impl Fn(&Child)) -> Outcome {
    for _ in 0..5 {
        let mut command = machine.sol(&[&QUANTIZE[..], &["out.gguf"]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let start = Instant::now();
        while left(machine, "out").is_empty() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        act(&child);
        let outcome = outcome(child.wait_with_output().unwrap());
        if outcome.code != Some(0) {
            return outcome;
        }
        fs::remove_file(machine.dir.path().join("out.gguf")).unwrap();
    }
    panic!("it was never caught");
}

fn interrupt(child: &Child) {
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
}

/// Runs it by a shell that has done something first; what is ignored there is ignored here.
fn after(machine: &Machine, first: &str, args: &[&str]) -> std::process::Output {
    let sol = env!("CARGO_BIN_EXE_sol");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{first} && exec \"$0\" \"$@\""), sol]).args(args).current_dir(machine.dir.path());
    command.stdin(Stdio::null()).output().unwrap()
}

#[test]
fn an_interrupt_leaves_nothing() {
    let machine = machine();
    let outcome = caught(&machine, interrupt);
    assert_eq!((outcome.code, left(&machine, "out")), (Some(130), vec![]), "{}", outcome.stderr);
    // What was there stays.
    fs::write(machine.dir.path().join("old.gguf"), "old").unwrap();
    let error = machine.run(&[&QUANTIZE[..], &["old.gguf"]].concat()).error();
    assert!(error.contains("old.gguf is there already and is not overwritten; --force replaces it"), "{error}");
    assert_eq!(fs::read(machine.dir.path().join("old.gguf")).unwrap(), b"old");
}

#[test]
fn a_source_that_becomes_shorter_meanwhile_leaves_nothing() {
    let machine = machine();
    let whole = fs::read(machine.dir.path().join("model.gguf")).unwrap();
    let source = || fs::OpenOptions::new().write(true).open(machine.dir.path().join("model.gguf")).unwrap();
    let error = caught(&machine, |_| source().set_len(5 << 20).unwrap()).error();
    // Where it was whole before that, the next try finds a file that is cut off.
    assert!(error.contains("changed while it was in use") || error.contains("the file ends inside"), "{error}");
    assert_eq!(left(&machine, "out"), [""; 0]);

    let error = machine.run(&[&QUANTIZE[..], &["out.gguf"]].concat()).error();
    assert!(error.contains("model.gguf") && error.contains("the file ends inside"), "{error}");
    fs::write(machine.dir.path().join("model.gguf"), &whole[..100]).unwrap();
    machine.run(&[&QUANTIZE[..], &["out.gguf"]].concat()).error();
    assert_eq!(left(&machine, "out"), [""; 0]);
}

/// Writing fails half-way: here at a limit for files, which reads like a disk that has become full.
#[test]
fn a_write_that_fails_leaves_nothing() {
    let machine = machine();
    let failed = outcome(after(&machine, "trap '' XFSZ && ulimit -f 2000", &[&QUANTIZE[..], &["out.gguf"]].concat())).error();
    assert!(failed.contains("can not write out.gguf: "), "{failed}");
    assert_eq!(left(&machine, "out"), [""; 0]);

    let error = machine.run(&[&QUANTIZE[..], &["/dev/full"]].concat()).error();
    assert!(error.contains("can not replace /dev/full: it is no file"), "{error}");
}

/// A disk of one megabyte, where a user may have one.
#[test]
fn a_file_that_does_not_fit_is_not_begun() {
    let machine = machine();
    fs::create_dir(machine.dir.path().join("small")).unwrap();
    let mount = "mount -t tmpfs -o size=1m none small";
    let own = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount])
        .current_dir(machine.dir.path())
        .output();
    if !own.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no file systems of one's own here");
        return;
    }
    let sol = env!("CARGO_BIN_EXE_sol");
    let script = format!("{mount} && \"$0\" \"$@\"; code=$?; ls -A small; exit $code");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, sol]);
    let full = outcome(command.args(QUANTIZE).arg("small/out.gguf").current_dir(machine.dir.path()).output().unwrap()).error();
    assert!(full.contains("small/out.gguf: the file takes ") && full.contains("but only "), "{full}");
}

/// The importance matrix of a tiny model and a long text.
#[test]
fn an_importance_matrix_is_whole_or_not_there() {
    let machine = Machine::new();
    fs::copy(fixture("chat-tiny.gguf"), machine.dir.path().join("model.gguf")).unwrap();
    fs::write(machine.dir.path().join("text"), "the cat sat on the mat and the dog sat on the log. ".repeat(40_000)).unwrap();
    let args = ["imatrix", "-q", "-m", "model.gguf", "-f", "text", "--ctx", "64", "--threads", "1", "-o", "out.gguf"];

    let mut command = machine.sol(&args);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(400));
    interrupt(&child);
    let output = child.wait_with_output().unwrap();
    // A machine that had not come to listen to Ctrl-C yet ends it too.
    assert!(matches!(output.status.code(), Some(130) | None), "{output:?}");
    assert_eq!(left(&machine, "out"), [""; 0]);

    let short = [&args[..], &["--chunks", "2"]].concat();
    let failed = outcome(after(&machine, "trap '' XFSZ && ulimit -f 1", &short)).error();
    assert!(failed.contains("can not write out.gguf: "), "{failed}");
    assert_eq!(left(&machine, "out"), [""; 0]);

    machine.run(&short).ok();
    let error = machine.run(&short).error();
    assert!(error.contains("out.gguf is there already and is not overwritten; --force replaces it"), "{error}");

    let path = machine.dir.path().join("out.gguf");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 40]).unwrap();
    let error = machine.run(&["quantize", "-m", "model.gguf", "-o", "q.gguf", "q4_0", "--imatrix", "out.gguf"]).error();
    assert!(error.contains("out.gguf") && error.contains("the file ends inside"), "{error}");
    fs::write(machine.dir.path().join("model.gguf"), &fs::read(fixture("chat-tiny.gguf")).unwrap()[..50_000]).unwrap();
    let error = machine.run(&[&short[..], &["--force"]].concat()).error();
    assert!(error.contains("the file ends inside"), "{error}");
    assert_eq!(left(&machine, "q.gguf"), [""; 0]);
}
