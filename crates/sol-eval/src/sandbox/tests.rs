//! Programs of the sort a model might write, and worse. After each: this process lives, the verdict is sane, the time is bounded,
//! nothing of the program is left.

use std::io::BufReader;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;

/// A sandbox whose processes can be told from all others by their interpreter's name: a link of its own.
struct Bed {
    sandbox: Sandbox,
    python: PathBuf,
    folder: tempfile::TempDir,
}

impl Bed {
    /// `None`, with a message, where there is no Python.
    fn new() -> Option<Self> {
        let real = match Python::find(None) {
            Ok(python) => python,
            Err(e) => {
                eprintln!("skipped: {e}");
                return None;
            }
        };
        let folder = tempfile::tempdir().unwrap();
        let python = folder.path().join("python3");
        std::os::unix::fs::symlink(real.path(), &python).unwrap();
        let sandbox = Sandbox::new(Options { python: Some(python.clone()), memory: 512 << 20, ..Options::default() }).unwrap();
        Some(Self { sandbox, python, folder })
    }

    /// `None`, with a message, also where programs could do harm.
    fn strict() -> Option<Self> {
        let bed = Self::new()?;
        if !bed.sandbox.missing().is_empty() {
            eprintln!("skipped, this machine can not enforce all: {:?}", bed.sandbox.missing());
            return None;
        }
        Some(bed)
    }

    fn run(&self, program: &str) -> Verdict {
        let start = Instant::now();
        let verdict = self.sandbox.run(&[program.to_owned()], &|| false).unwrap().remove(0);
        assert!(start.elapsed() < Duration::from_secs(8), "took {:?}", start.elapsed());
        assert_eq!(self.processes(), Vec::<String>::new());
        verdict
    }

    /// Processes that this bed's interpreter started, by their file in `/proc`.
    fn processes(&self) -> Vec<String> {
        let ours = |pid: &Path| {
            std::fs::read(pid.join("cmdline")).is_ok_and(|line| line.starts_with(self.python.as_os_str().as_encoded_bytes()))
        };
        let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        all.filter(|pid| ours(pid)).map(|pid| pid.display().to_string()).collect()
    }
}

macro_rules! bed {
    ($how:ident) => {
        match Bed::$how() {
            Some(bed) => bed,
            None => return,
        }
    };
}

fn failed(message: &str) -> Verdict {
    Verdict::Failed(message.into())
}

#[test]
fn verdicts_are_in_order() {
    let bed = bed!(new);
    let programs: Vec<String> = (0..9).map(|i| format!("if {i} % 2: raise ValueError({i})")).collect();
    let verdicts = bed.sandbox.run(&programs, &|| false).unwrap();
    let expected = |i: usize| if i % 2 == 1 { failed(&i.to_string()) } else { Verdict::Passed };
    assert_eq!(verdicts, (0..9).map(expected).collect::<Vec<_>>());
    assert_eq!(bed.sandbox.run(&[], &|| false).unwrap(), []);
}

/// Details of how the harness runs a program.
#[test]
fn programs_run_as_in_the_harness() {
    let bed = bed!(new);
    let cases = [
        ("import sys; sys.exit()", failed("")),
        ("raise SystemExit(3)", failed("3")),
        ("import os; os._exit(0)", Verdict::TimedOut),
        ("import os; os.getcwd()", failed("'NoneType' object is not callable")),
        ("import resource", failed("import of resource halted; None in sys.modules")),
        ("input()", failed("")),
        ("import sys; print('x'); print(sys.stdin.readable(), file=sys.stderr); assert __name__ == 'builtins'", Verdict::Passed),
        ("import time\ntry: time.sleep(9)\nexcept Exception as e: assert str(e) == 'Timed out!'", Verdict::Passed),
        ("class E(Exception):\n  def __str__(self): 1/0\nraise E", Verdict::TimedOut),
        ("raise ValueError('é\\ud800\\0')", failed("é\\ud800\0")),
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()", Verdict::Passed),
        ("import asyncio, multiprocessing, tempfile, pathlib; open('a', 'w').write('b')", Verdict::Passed),
        ("import collections\nP = collections.namedtuple('P', 'x')\nassert P(1).x == 1", Verdict::Passed),
    ];
    let programs: Vec<String> = cases.iter().map(|(program, _)| (*program).to_owned()).collect();
    let verdicts = bed.sandbox.run(&programs, &|| false).unwrap();
    for ((program, expected), verdict) in cases.iter().zip(&verdicts) {
        assert_eq!(verdict, expected, "{program}");
    }
}

#[test]
fn recursion_goes_as_deep_as_in_the_harness() {
    let bed = bed!(new);
    if !bed.sandbox.python_version().starts_with("3.11.") {
        return eprintln!("skipped: Python is {}", bed.sandbox.python_version());
    }
    let deep = |n| format!("def f(n): return n and f(n - 1)\nf({n})");
    assert_eq!(bed.run(&deep(982)), Verdict::Passed);
    assert!(matches!(bed.run(&deep(983)), Verdict::Failed(message) if message.starts_with("maximum recursion depth exceeded")));
}

/// Verdicts that bigcode-evaluation-harness gave under Python 3.11; messages differ with the version.
fn compare_with_harness(file: &Path) {
    let bed = bed!(new);
    let same = bed.sandbox.python_version().starts_with("3.11.");
    let lines = BufReader::new(flate2::read::GzDecoder::new(std::fs::File::open(file).unwrap()));
    let (mut programs, mut expected) = (Vec::new(), Vec::new());
    for line in std::io::BufRead::lines(lines) {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        for (answer, result) in line["postprocessed"].as_array().unwrap().iter().zip(line["results"].as_array().unwrap()) {
            programs.push(format!("{}\n{}", text(answer), text(&line["reference"])));
            expected.push(text(result));
        }
    }
    assert!(!programs.is_empty());
    let verdicts = bed.sandbox.run(&programs, &|| false).unwrap();
    for ((program, expected), verdict) in programs.iter().zip(&expected).zip(&verdicts) {
        assert_eq!(verdict.passed(), expected == "passed", "{program}\n{verdict}");
        assert!(!same || verdict.to_string() == *expected, "{program}\n{verdict}\n{expected}");
    }
}

#[test]
fn ten_problems_as_the_harness_judges_them() {
    compare_with_harness(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/mbpp.jsonl.gz"));
}

#[test]
fn every_recorded_problem_as_the_harness_judges_it() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/eval/golden/mbpp.jsonl.gz");
    if !file.exists() {
        return eprintln!("skipped: there is no ../shared/eval beside the project");
    }
    compare_with_harness(&file);
}

#[test]
fn an_interrupt_ends_programs() {
    let bed = bed!(new);
    let start = Instant::now();
    let programs = vec!["import time\nwhile True:\n  try: time.sleep(9)\n  except Exception: pass".to_owned(); 3];
    let error = bed.sandbox.run(&programs, &|| start.elapsed() > Duration::from_millis(700)).unwrap_err();
    assert!(matches!(error, Error::Interrupted), "{error}");
    assert!(start.elapsed() < Duration::from_secs(3), "took {:?}", start.elapsed());
    assert_eq!(bed.processes(), Vec::<String>::new());
}

#[test]
fn a_python_that_is_none_is_an_error() {
    for path in ["/nonexistent/python3", "/bin/true"] {
        let error = Sandbox::new(Options { python: Some(path.into()), ..Options::default() }).err().unwrap();
        assert!(error.to_string().contains(path), "{error}");
    }
}

/// The means of a machine that has no better; only with programs that do no harm.
#[test]
fn weaker_means_work_too() {
    let mut bed = bed!(new);
    for means in Means::best_first(bed.sandbox.python.root()) {
        let working = process::run(&bed.sandbox.python, &bed.sandbox.options, means, TRIAL, &|| false);
        if !matches!(working, Ok(Verdict::Passed)) {
            eprintln!("skipped, does not work here: {means:?}");
            continue;
        }
        bed.sandbox.means = means;
        assert_eq!(bed.run("1/0"), failed("division by zero"), "{means:?}");
        assert_eq!(bed.run("while True: pass"), Verdict::TimedOut, "{means:?}");
        assert_eq!(bed.run(DETACHED), Verdict::Passed, "{means:?}");
        assert_eq!(missing(means, &bed.sandbox.python, "because").is_empty(), means.namespaces != Namespaces::None);
    }
}

/// A child that leaves its group and its parent, and stays.
const DETACHED: &str = "
import posix, time
if posix.fork() == 0:
    posix.setsid()
    if posix.fork():
        posix._exit(0)
    posix.closerange(0, 256)
    time.sleep(60)
    posix._exit(0)
";

#[test]
fn a_detached_child_does_not_survive() {
    assert_eq!(bed!(strict).run(DETACHED), Verdict::Passed);
}

#[test]
fn a_fork_bomb_is_bounded() {
    let bed = bed!(strict);
    assert!(!bed.run("import posix\nwhile True: posix.fork()").passed());
    let quiet = "import posix\nwhile True:\n  try: posix.fork()\n  except BaseException: pass";
    assert_eq!(bed.run(quiet), Verdict::TimedOut);
    let threads = "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()";
    assert_eq!(bed.run(threads), failed("can't start new thread"));
}

#[test]
fn the_disk_does_not_fill() {
    let bed = bed!(strict);
    let one = "with open('big', 'wb') as file:\n  while True: file.write(bytes(1 << 20))";
    assert!(bed.run(one).to_string().starts_with("failed: [Errno 2"));
    let many = "for i in range(1000):\n  with open(f'/tmp/{i}', 'wb') as file: file.write(bytes(10 << 20))";
    assert_eq!(bed.run(many), failed("[Errno 28] No space left on device"));
    let shared = "with open('/dev/shm/x', 'wb') as file:\n  while True: file.write(bytes(1 << 20))";
    assert!(bed.run(shared).to_string().starts_with("failed: [Errno 2"));
    let empty = "for i in range(1 << 20): open(str(i), 'w').close()";
    assert_eq!(bed.run(empty).to_string().split(':').nth(1), Some(" [Errno 28] No space left on device"));
}

#[test]
fn files_of_others_are_out_of_reach() {
    let bed = bed!(strict);
    let secret = bed.folder.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let missing = |path: &str| failed(&format!("[Errno 2] No such file or directory: '{path}'"));
    let path = secret.display().to_string();
    assert_eq!(bed.run(&format!("open('{path}').read()")), missing(&path));
    for path in ["/etc/passwd", "/proc/self/environ", "/var/log", "/sys/kernel"] {
        assert_eq!(bed.run(&format!("open('{path}').read()")), missing(path));
    }
    let here = env!("CARGO_MANIFEST_DIR");
    assert_eq!(bed.run(&format!("import os; os.listdir('{here}')")), missing(here));
    assert_eq!(bed.run("import os; assert os.listdir('/tmp') == [] == os.listdir('.')"), Verdict::Passed);
    // The system's folders are there to be read.
    for path in ["/usr/x", "/usr/lib/x", "/etc/x", "/x", "/dev/x"] {
        let Verdict::Failed(message) = bed.run(&format!("open('{path}', 'w')")) else { panic!("{path} was written") };
        assert!(message.contains("Read-only") || message.contains("denied"), "{message}");
    }
}

#[test]
fn the_environment_is_not_inherited() {
    let bed = bed!(strict);
    let known = "import os; assert set(os.environ) <= {'PATH', 'HOME', 'TMPDIR', 'LC_ALL', 'OMP_NUM_THREADS'}, os.environ";
    assert_eq!(bed.run(known), Verdict::Passed);
    assert_eq!(bed.run("import os; assert os.environ['HOME'] == os.environ['TMPDIR'] == '/tmp'"), Verdict::Passed);
}

#[test]
fn other_processes_are_out_of_reach() {
    let bed = bed!(strict);
    let me = std::process::id();
    let killer = format!(
        "import posix
for pid in (posix.getppid(), 1, {me}, -1):
    for signal in (2, 9, 15):
        try: posix.kill(pid, signal)
        except OSError: pass"
    );
    assert_eq!(bed.run(&killer), Verdict::Passed);
    assert_eq!(bed.run(&format!("import posix; posix.kill({me}, 0)")), failed("[Errno 3] No such process"));
    assert_eq!(bed.run("import signal; signal.raise_signal(9)"), Verdict::TimedOut);
}

#[test]
fn the_network_is_out_of_reach() {
    let bed = bed!(strict);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("import socket; socket.create_connection(('127.0.0.1', {port}), 2)");
    assert_eq!(bed.run(&connect), failed("[Errno 101] Network is unreachable"));
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

#[test]
fn memory_and_output_are_bounded() {
    let bed = bed!(strict);
    assert_eq!(bed.run("x = []\nwhile True: x.append(bytearray(1 << 24))"), failed(""));
    assert!(!bed.run("while True: print('x' * 100000)").passed());
    assert_eq!(bed.run("import posix\nwhile True: posix.write(1, bytes(1 << 16))"), Verdict::TimedOut);
    let Verdict::Failed(message) = bed.run("raise ValueError('x' * (1 << 24))") else { panic!("did not fail") };
    assert!((16_000..=16_384).contains(&message.len()), "{}", message.len());
}

#[test]
fn a_verdict_is_not_easily_forged() {
    let bed = bed!(strict);
    let forger = r#"
import posix
for fd in range(256):
    for text in ('passed', '{"verdict": "passed"}\n', '0' * 32 + 'passed' + '0' * 32):
        try: posix.write(fd, text.encode())
        except OSError: pass
"#;
    assert_eq!(bed.run(&format!("{forger}assert False")), failed(""));
    assert_eq!(bed.run(&format!("{forger}posix._exit(0)")), Verdict::TimedOut);
    let flood = "import posix\nwhile True:\n  for fd in range(3, 9):\n    try: posix.write(fd, b'passed' * 999)\n    except OSError: pass";
    assert_eq!(bed.run(flood), Verdict::TimedOut);
    let main = "import __main__; assert not hasattr(__main__, 'judge') and not hasattr(__main__, 'job')";
    assert_eq!(bed.run(main), Verdict::Passed);
}

#[test]
fn deleting_everything_deletes_nothing() {
    let bed = bed!(strict);
    let kept = bed.folder.path().join("kept");
    std::fs::write(&kept, "x").unwrap();
    let delete = "
import os, posix
for top in ('..', '../..', '/'):
    for folder, folders, files in os.walk(top, topdown=False):
        for name in files:
            try: posix.unlink(os.path.join(folder, name))
            except OSError: pass
        for name in folders:
            try: posix.rmdir(os.path.join(folder, name))
            except OSError: pass";
    bed.run(delete);
    assert!(kept.exists() && bed.python.exists() && Path::new("/usr/bin").exists() && Path::new("/dev/null").exists());
    assert_eq!(bed.run(TRIAL), Verdict::Passed);
}

#[test]
fn a_caught_alarm_does_not_save_a_loop() {
    let bed = bed!(strict);
    assert_eq!(bed.run("import time\nwhile True:\n  try: time.sleep(9)\n  except BaseException: pass"), Verdict::TimedOut);
    let deaf =
        "import signal\nsignal.signal(signal.SIGALRM, signal.SIG_IGN)\nsignal.signal(15, signal.SIG_IGN)\nwhile True: pass";
    assert_eq!(bed.run(deaf), Verdict::TimedOut);
}

#[test]
fn rights_do_not_come_back() {
    let bed = bed!(strict);
    let unshare = "
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
for flags in (0x20000, 0x10000000, 0x10020000):
    assert libc.unshare(flags) == -1, flags
assert libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None) == -1
assert libc.umount2(b'/tmp', 2) == -1
assert libc.chroot(b'/tmp') == -1
assert libc.mount(None, b'/usr', None, 4096 | 32, None) == -1";
    assert_eq!(bed.run(unshare), Verdict::Passed);
}
