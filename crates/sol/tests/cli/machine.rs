//! What the machine lacks, limits, or takes away.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Machine, Outcome, fixture, outcome};

const PROMPT: &str = "Describe été.";
const ANSWER: &str = "an8 wat count: c wereouZone\n";

/// A copy of chat-tiny in the machine's directory, with a context of so many tokens.
fn copy(machine: &Machine, context: u64) -> String {
    let dir = machine.dir.path().join("copy");
    fs::create_dir(&dir).unwrap();
    for entry in fs::read_dir(fixture("chat-tiny")).unwrap().flatten() {
        fs::copy(entry.path(), dir.join(entry.file_name())).unwrap();
    }
    let config = Path::new(&dir).join("config.json");
    let mut value: Value = serde_json::from_slice(&fs::read(&config).unwrap()).unwrap();
    value["max_position_embeddings"] = context.into();
    fs::write(&config, value.to_string()).unwrap();
    dir.into_os_string().into_string().unwrap()
}

/// The shell's `ulimit` with these words, then `sol`.
#[cfg(target_os = "linux")]
fn limited(machine: &Machine, ulimit: &str, args: &[&str]) -> Outcome {
    let sol = machine.sol(&[]);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {ulimit} && exec \"$0\" \"$@\"")]).arg(sol.get_program()).args(args);
    shell.current_dir(machine.dir.path()).env_clear();
    shell.envs(sol.get_envs().filter_map(|(key, value)| Some((key, value?))));
    outcome(shell.output().unwrap())
}

/// The longest there is; its keys and values take 4.3 GB.
#[cfg(target_os = "linux")]
const LONG: u64 = 1 << 24;

#[cfg(target_os = "linux")]
#[test]
fn a_context_beyond_memory_is_refused_if_asked_for_and_else_cut() {
    let machine = Machine::new();
    let model = copy(&machine, LONG);
    let args = ["run", "-m", &model, PROMPT, "--threads", "1"];
    for (ulimit, name) in [("-v 1048576", "ulimit -v"), ("-d 1048576", "ulimit -d")] {
        let error = limited(&machine, ulimit, &[&args[..], &["--ctx", "16777216"]].concat()).error();
        for words in ["16777216 tokens", "4.3 GB", "of 1.1 GB are free", name, "lower --ctx (", "--kv f16"] {
            assert!(error.contains(words), "{words}: {error}");
        }
        // What the message says fits does.
        let fits = error.split_once("lower --ctx (").unwrap().1.split(' ').next().unwrap();
        let less = (fits.parse::<u64>().unwrap() / 2).to_string();
        assert_eq!(limited(&machine, ulimit, &[&args[..], &["--ctx", &less]].concat()).ok(), ANSWER);

        // The model's heads are so small that the cache pads them to more than is foreseen, so no room is left to render a chat.
        let raw = [&args[..], &["--raw", "-n", "9", "--seed", "1"]].concat();
        let cut = limited(&machine, ulimit, &raw);
        assert!(cut.stderr.contains("the context is cut to ") && cut.stderr.contains(" of 16777216 "), "{}", cut.stderr);
        assert_eq!(cut.ok(), machine.run(&raw).ok());
    }
}

#[cfg(target_os = "linux")]
#[test]
fn sequences_beyond_memory_are_refused_as_such() {
    let machine = Machine::new();
    let model = copy(&machine, LONG);
    let bench = |parallel: &str| {
        let args = ["bench", "-m", &model, "-p", "0", "-n", "4", "-c", "65536", "-b", parallel];
        limited(&machine, "-v 1048576", &args).error()
    };
    let error = bench("500");
    for words in ["65536 tokens for each of 500 sequences", "lower --ctx (", "take fewer sequences"] {
        assert!(error.contains(words), "{words}: {error}");
    }
    assert!(bench("65535").contains("--parallel is 65535: must be from 1 to 512"));
}

#[cfg(target_os = "linux")]
#[test]
fn inspect_shows_what_is_available_here() {
    let machine = Machine::new();
    let model = copy(&machine, LONG);
    let inspect = |args: &[&str]| limited(&machine, "-v 1048576", &[&["inspect", &model], args].concat()).ok();
    let line = |args: &[&str]| inspect(args).lines().find(|line| line.contains("available here")).unwrap().to_owned();
    assert!(line(&[]).ends_with("are free (ulimit -v): it does not fit"), "{}", line(&[]));
    assert!(line(&["--ctx", "64"]).ends_with("are free (ulimit -v): it fits"), "{}", line(&["--ctx", "64"]));
    let available = serde_json::from_str::<Value>(&inspect(&["--json"])).unwrap()["available"].clone();
    assert_eq!((&available["verdict"], &available["limit"]), (&"too little".into(), &(1u64 << 30).into()));
}

#[test]
fn more_threads_than_cores_work_and_are_remarked_on() {
    let cores = std::thread::available_parallelism().unwrap().get();
    let run =
        |threads: usize| Machine::new().run(&["run", "-m", &fixture("chat-tiny"), PROMPT, "--threads", &threads.to_string()]);
    let crowded = run(4 * cores);
    assert!(crowded.stderr.contains(&format!("{} threads were asked for", 4 * cores)), "{}", crowded.stderr);
    assert_eq!(crowded.ok(), ANSWER);
    let plain = run(cores);
    assert_eq!(plain.stderr, "");
    assert_eq!(plain.ok(), ANSWER);
    for senseless in [0, 1025, usize::MAX] {
        let error = run(senseless).error();
        assert!(error.contains(&format!("--threads {senseless}")) && error.contains("from 1 to 1024"), "{error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn threads_are_as_many_as_cores_that_may_be_used() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
    let first = cpus.split(['-', ',']).next().unwrap();
    let machine = Machine::new();
    let sol = machine.sol(&[]);
    let mut command = Command::new("taskset");
    command.args(["-c", first]).arg(sol.get_program());
    command.args(["bench", "-m", &fixture("chat-tiny"), "-p", "1", "-n", "0", "-r", "1", "--json"]);
    let Ok(output) = command.output() else {
        eprintln!("skipped: there is no taskset");
        return;
    };
    let report: Value = serde_json::from_str(&outcome(output).ok()).unwrap();
    assert_eq!(report[0]["n_threads"], 1);
}

#[test]
fn the_portable_kernels_say_so() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let isa = |name: &str| machine.sol(&["run", "-m", &model, PROMPT]).env("SOL_ISA", name).output().unwrap();
    let portable = isa("portable");
    let remark = String::from_utf8_lossy(&portable.stderr);
    assert!(remark.contains("portable kernels are used") && remark.lines().count() == 1, "{remark}");
    assert_eq!(outcome(portable).ok(), ANSWER);
    assert_eq!(outcome(isa("")).ok(), ANSWER);
    let eight_bits = |name: &str| {
        let args = ["run", "-m", &model, PROMPT, "--kv", "q8_0"];
        outcome(machine.sol(&args).env("SOL_ISA", name).output().unwrap()).ok()
    };
    assert_eq!(eight_bits("portable"), eight_bits(""));
    let error = outcome(isa("avx3")).error();
    assert!(error.contains("'avx3'") && error.contains("portable"), "{error}");
    let help = machine.run(&["--help"]).ok();
    assert!(help.contains("SOL_ISA=portable"), "{help}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_cut_ends_the_answer_with_a_message() {
    use std::io::Read;
    use std::process::Stdio;
    let machine = Machine::new();
    let model = copy(&machine, 512);
    let mut command = machine.sol(&["run", "-m", &model, PROMPT, "--ignore-eos", "--shift", "-n", "1000000000"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    let weights = Path::new(&model).join("model.safetensors");
    fs::OpenOptions::new().write(true).open(weights).unwrap().set_len(8192).unwrap();
    stdout.read_to_end(&mut Vec::new()).unwrap();
    let run = outcome(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.starts_with("sol: ") && run.stderr.contains("8192 of 142608 bytes are left"), "{}", run.stderr);
}
