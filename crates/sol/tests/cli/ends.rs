//! How `sol convert` and `sol upscale` end early: a full disk, Ctrl-C, a kill, a source that changes while it is read. Whatever
//! happens, nothing half-written passes for a checkpoint.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Machine, Outcome, fixture, outcome};

/// What writes a directory and what a file of `large`, a directory of 90 MB.
const DIRECTORY: [&[&str]; 2] = [
    &["convert", "-m", "large", "-o", "out", "--type", "f32", "-q"],
    &["upscale", "-m", "large", "-o", "out", "-r", "stack", "--times", "8", "-q"],
];
const FILE: [&[&str]; 2] = [
    &["convert", "-m", "large", "-o", "out.gguf", "--type", "f32", "-q"],
    &["upscale", "-m", "large", "-o", "out.gguf", "-r", "stack", "--times", "8", "-q"],
];

/// Names in the machine's directory that a result has or had.
fn left(machine: &Machine) -> Vec<String> {
    let names = fs::read_dir(machine.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.contains("out")).collect();
    names.sort();
    names
}

fn with_large_model() -> Machine {
    let machine = Machine::new();
    machine.run(&["synth", "--like", "smollm2", "--layers", "5", "--type", "bf16", "-o", "large.gguf", "-q"]).ok();
    machine.run(&["convert", "-m", "large.gguf", "-o", "large", "-q"]).ok();
    fs::remove_file(machine.dir.path().join("large.gguf")).unwrap();
    machine
}

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([name, &child.id().to_string()]).status().unwrap().success());
}

/// A run that was stopped (to go on, when it is told) while it writes.
fn midway(machine: &Machine, args: &[&str]) -> Child {
    let child = machine.sol(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while left(machine).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(60), "nothing is written");
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, "-STOP");
    assert!(left(machine).iter().all(|name| name.starts_with('.')), "it was faster");
    child
}

fn end(child: Child) -> Outcome {
    outcome(child.wait_with_output().unwrap())
}

#[test]
fn an_interrupt_leaves_nothing() {
    let machine = with_large_model();
    for args in [DIRECTORY, FILE].concat() {
        let child = midway(&machine, args);
        signal(&child, "-INT");
        signal(&child, "-CONT");
        let outcome = end(child);
        assert_eq!(outcome.code, Some(130), "{args:?}: {outcome:?}");
        assert_eq!(left(&machine), [""; 0], "{args:?}");
    }
}

/// What a killed program leaves has a hidden name and is no model; up-scaling goes on with the shards that were whole.
#[test]
fn what_is_left_of_a_killed_run_is_no_checkpoint() {
    let machine = with_large_model();
    for args in [DIRECTORY, FILE].concat() {
        let mut child = midway(&machine, args);
        child.kill().unwrap();
        child.wait().unwrap();
        let [hidden] = &left(&machine)[..] else { panic!("{:?}", left(&machine)) };
        assert!(hidden.starts_with(".out"), "{hidden}");
        machine.run(&["inspect", hidden]).error();
        let path = machine.dir.path().join(hidden);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }

    let sharded = [DIRECTORY[1], &["--shard-size", "20MB"]].concat();
    let child = midway(&machine, &sharded);
    signal(&child, "-CONT");
    let start = Instant::now();
    // What notes that a shard is whole; those before it are.
    let noted = || {
        let mut entries = fs::read_dir(machine.dir.path().join(".out.unfinished")).into_iter().flatten();
        entries.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(".model-00003"))
    };
    while !noted() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    signal(&child, "-KILL");
    end(child);
    machine.run(&["inspect", ".out.unfinished"]).error();
    let report = machine.run(&[&sharded[..], &["--json"]].concat()).ok();
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert!(report["reused_files"].as_u64().unwrap() >= 1, "{report}");
    assert_eq!(left(&machine), ["out"]);
    machine.run(&["inspect", "out"]).ok();
}

#[test]
fn a_source_that_changes_makes_no_result() {
    for args in [DIRECTORY, FILE].concat() {
        let machine = with_large_model();
        let child = midway(&machine, args);
        let file = machine.dir.path().join("large/model.safetensors");
        std::thread::sleep(Duration::from_millis(20));
        fs::OpenOptions::new().append(true).open(file).unwrap().set_len(1 << 20).unwrap();
        signal(&child, "-CONT");
        let error = end(child).error();
        assert!(error.contains("the file changed while it was in use"), "{args:?}: {error}");
        assert_eq!(left(&machine), [""; 0], "{args:?}");
    }
}

/// Runs `script` with the program as `$0` and its arguments.
fn shell(machine: &Machine, script: &str, args: &[&str]) -> Outcome {
    let mut command = Command::new("sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_sol")]).args(args).current_dir(machine.dir.path());
    command.env("HF_HUB_OFFLINE", "1").env("HOME", machine.dir.path()).env("SOLARIUM_HOME", machine.dir.path().join("own"));
    outcome(command.stdin(Stdio::null()).output().unwrap())
}

/// Writing fails in the midst: no file may have more than so many blocks, which programs are told like a full disk.
#[test]
fn a_write_that_fails_leaves_nothing() {
    let machine = Machine::new();
    let (source, file) = (fixture("models/llama"), format!("{}/model.gguf", fixture("gguf/llama")));
    for args in [
        &["convert", "-q", "-m", &source, "-o", "out"][..],
        &["convert", "-q", "-m", &source, "-o", "out.gguf"],
        &["upscale", "-q", "-m", &source, "-r", "stack", "-o", "out"],
        &["upscale", "-q", "-m", &file, "-r", "stack", "-o", "out.gguf"],
    ] {
        // One type more makes a directory of a directory.
        let args = if args[0] == "convert" { [args, &["--type", "f16"]].concat() } else { args.to_vec() };
        let error = shell(&machine, "trap '' XFSZ; ulimit -f 40; exec \"$0\" \"$@\"", &args).error();
        assert!(error.contains("out") && error.contains("too large"), "{args:?}: {error}");
        assert_eq!(left(&machine), [""; 0], "{args:?}");
    }
}

/// A disk that can not hold the result, which is said before much is written. Needs a file system of its own.
#[test]
fn a_disk_that_is_too_small_stays_empty() {
    let machine = Machine::new();
    fs::create_dir(machine.dir.path().join("small")).unwrap();
    let script =
        "mount -t tmpfs -o size=64k tmpfs small 2>/dev/null || exit 77; \"$0\" \"$@\"; code=$?; ls -A small >&2; exit $code";
    let source = fixture("models/llama");
    for args in [
        &["convert", "-q", "-m", &source, "-o", "small/out", "--type", "f16"][..],
        &["convert", "-q", "-m", &source, "-o", "small/out.gguf"],
        &["upscale", "-q", "-m", &source, "-r", "stack", "-o", "small/out"],
        &["upscale", "-q", "-m", &source, "-r", "stack", "-o", "small/out.gguf"],
    ] {
        let script = format!("exec unshare -rm sh -c '{script}' \"$0\" \"$@\"");
        let outcome = shell(&machine, &script, args);
        if ![Some(0), Some(1)].contains(&outcome.code) || !outcome.stderr.contains("sol: ") {
            println!("skipped: this user can not mount a file system ({outcome:?})");
            return;
        }
        let error = outcome.error();
        assert!(
            error.contains("small/") && (error.contains("free there") || error.contains("No space left")),
            "{args:?}: {error}"
        );
    }
}

/// The plan goes to a pipe or a device that takes nothing: an error, not silence.
#[test]
fn output_that_can_not_be_written_is_an_error() {
    let machine = Machine::new();
    if !Path::new("/dev/full").exists() {
        return;
    }
    let source = fixture("models/llama");
    let outcome =
        shell(&machine, "exec \"$0\" \"$@\" > /dev/full", &["upscale", "-m", &source, "-r", "dus", "--drop", "1", "--print"]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("No space left on device"), "{outcome:?}");
}

/// `--force` replaces results, not what they are made of: the source, one of its parts, a text, an adapter, a directory around it.
#[test]
fn force_spares_the_sources() {
    let machine = Machine::new();
    let at = |name: &str| machine.dir.path().join(name);
    fs::create_dir_all(at("run/base")).unwrap();
    for name in ["config.json", "model.safetensors"] {
        fs::copy(format!("{}/{name}", fixture("models/llama")), at("run/base").join(name)).unwrap();
    }
    fs::write(at("run/config.json"), "{}").unwrap();
    fs::copy(fixture("chat-tiny.gguf"), at("model.gguf")).unwrap();
    fs::write(at("text"), "the cat sat on the mat. ".repeat(100)).unwrap();
    for args in [
        &["upscale", "-m", "run/base", "-r", "stack", "-o", "run"][..],
        &["convert", "-m", "run/base", "--type", "f16", "-o", "run"],
        &["quantize", "-m", "model.gguf", "-o", "model.gguf", "q8_0"],
        &["imatrix", "-m", "model.gguf", "-f", "text", "-o", "model.gguf"],
        &["imatrix", "-m", "model.gguf", "-f", "text", "-o", "text"],
    ] {
        let error = machine.run(&[args, &["-q", "--force"]].concat()).error();
        assert!(error.contains("is, or holds, what the result is made of; write it elsewhere"), "{args:?}: {error}");
    }
    assert!(at("run/base/model.safetensors").exists() && fs::read_to_string(at("text")).unwrap().starts_with("the cat"));
    assert!(fs::read(at("model.gguf")).unwrap() == fs::read(fixture("chat-tiny.gguf")).unwrap());
}
