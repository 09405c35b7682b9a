//! `sol run` without a prompt, on a terminal that this test plays.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use crate::support::{Machine, fixture};
use nix::pty::{Winsize, openpty};
use serde_json::{Value, json};

const CTRL_C: &str = "\x03";
const CTRL_D: &str = "\x04";
const PATIENCE: Duration = Duration::from_secs(30);

/// A person at a terminal.
struct Terminal {
    program: Child,
    keyboard: File,
    screen: Arc<(Mutex<String>, Condvar)>,
    /// How much of the screen has been read.
    read: usize,
}

impl Terminal {
    fn start(mut command: Command) -> Self {
        let size = Winsize { ws_row: 40, ws_col: 200, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let program = command.env("TERM", "xterm").stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        drop((command, pty.slave));
        let mut master = File::from(pty.master);
        let keyboard = master.try_clone().unwrap();
        let screen: Arc<(Mutex<String>, Condvar)> = Arc::default();
        let seen = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // An error is how a terminal says that nobody writes to it any more.
            while let Ok(n @ 1..) = master.read(&mut bytes) {
                seen.0.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..n]));
                seen.1.notify_all();
            }
        });
        Self { program, keyboard, screen, read: 0 }
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).unwrap();
    }

    /// Waits until `text` is on the screen, behind what was waited for before; what came before it.
    fn sees(&mut self, text: &str) -> String {
        let (screen, changed) = &*self.screen;
        let deadline = Instant::now() + PATIENCE;
        let mut shown = screen.lock().unwrap();
        loop {
            if let Some(at) = shown[self.read..].find(text) {
                let before = shown[self.read..][..at].to_owned();
                self.read += at + text.len();
                return before;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no '{text}' in {:?}", &shown[self.read..]);
            shown = changed.wait_timeout(shown, left).unwrap().0;
        }
    }

    /// Waits for the prompt, so that a line that is typed now is read by the editor. No answer contains its colour.
    fn is_asked(&mut self) {
        self.sees("\x1b[1;36m> ");
    }

    /// Waits for so many more bytes of whatever comes.
    fn sees_more(&mut self, bytes: usize) {
        let (screen, changed) = &*self.screen;
        let from = self.read;
        let enough = |shown: &mut String| shown.len() < from + bytes;
        let (shown, late) = changed.wait_timeout_while(screen.lock().unwrap(), PATIENCE, enough).unwrap();
        assert!(!late.timed_out(), "no more than {:?}", &shown[from..]);
    }

    fn ends(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.program.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end: {:?}", self.screen.0.lock().unwrap());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

fn saved(machine: &Machine, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(machine.dir.path().join(name)).unwrap()).unwrap()
}

#[test]
fn a_conversation_with_all_its_commands() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let mut terminal = Terminal::start(machine.sol(&["run", "-m", &model]));
    terminal.sees("/help shows");
    terminal.is_asked();
    terminal.types("Describe été.\r");
    terminal.sees("an8 wat count: c wereouZone\r\n");
    terminal.is_asked();
    terminal.types("/save talk.json\r");
    terminal.sees("saved to talk.json");
    terminal.is_asked();
    let first = json!([{ "role": "user", "content": "Describe été." }, { "role": "assistant", "content": "an8 wat count: c wereouZone" }]);
    assert_eq!(saved(&machine, "talk.json")["messages"], first);

    // A second turn goes on from the first.
    terminal.types("two\\\r");
    terminal.types("lines\r");
    terminal.sees("\r\n");
    terminal.is_asked();
    terminal.types("/save talk.json\r");
    terminal.sees("saved to");
    terminal.is_asked();
    let messages = saved(&machine, "talk.json")["messages"].as_array().unwrap().clone();
    assert_eq!(messages.len(), 4);
    assert_eq!(messages[2]["content"], "two\nlines");

    terminal.types("/regen\r");
    terminal.sees("temperature 0.8");
    terminal.is_asked();
    terminal.types("/save other.json\r");
    terminal.sees("saved to");
    terminal.is_asked();
    let again = saved(&machine, "other.json")["messages"].as_array().unwrap().clone();
    assert_eq!((&again[..3], again.len()), (&messages[..3], 4));
    assert_ne!(again[3], messages[3]);

    std::fs::write(machine.dir.path().join("mine"), "precious").unwrap();
    terminal.types("/save mine\r");
    terminal.sees("/save! mine replaces it");
    terminal.is_asked();
    terminal.types("/reste\r");
    terminal.sees("perhaps /reset?");
    terminal.is_asked();
    terminal.types("/reset\r");
    terminal.sees("a new conversation");
    terminal.is_asked();
    terminal.types("/regen\r");
    terminal.sees("no answer yet");
    terminal.is_asked();
    terminal.types("/help\r");
    terminal.sees("/quit");
    terminal.is_asked();
    assert_eq!(std::fs::read_to_string(machine.dir.path().join("mine")).unwrap(), "precious");

    // Ctrl-C takes the line back, Ctrl-D leaves.
    terminal.types(&format!("half a li{CTRL_C}"));
    terminal.sees("Ctrl-D or /quit leaves");
    terminal.is_asked();
    terminal.types(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));

    let history = std::fs::read_to_string(machine.dir.path().join("state/solarium/history")).unwrap();
    assert!(history.contains("Describe été.") && !history.contains("half"), "{history}");
}

#[test]
fn ctrl_c_stops_the_answer_and_not_the_program() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let args = ["run", "-m", &model, "--ignore-eos", "--shift", "-n", "1000000000", "--temperature", "1", "--seed", "5"];
    let mut terminal = Terminal::start(machine.sol(&args));
    terminal.is_asked();
    for _ in 0..2 {
        terminal.types("Describe été.\r");
        // The editor gives the terminal back (it ends bracketed paste), then comes something of the answer.
        terminal.sees("\x1b[?2004l");
        terminal.sees_more(500);
        let id = terminal.program.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        terminal.sees("(interrupted)");
        terminal.is_asked();
    }
    terminal.types("/save talk.json\r");
    terminal.sees("saved to");
    terminal.is_asked();
    terminal.types("/quit\r");
    assert_eq!(terminal.ends().code(), Some(0));
    let messages = saved(&machine, "talk.json")["messages"].as_array().unwrap().clone();
    // The first exchange may be forgotten by now: this model writes faster than a test can press keys.
    let [.., question, answer] = messages.as_slice() else { panic!("{messages:?}") };
    assert_eq!((&question["content"], &answer["role"]), (&json!("Describe été."), &json!("assistant")));
    assert!(answer["content"].as_str().unwrap().len() > 10, "what was said before Ctrl-C stays");
}

#[test]
fn a_conversation_that_outgrows_its_context() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let long = "word ".repeat(30);
    let mut terminal = Terminal::start(machine.sol(&["run", "-m", &model, "--ctx", "60", "-n", "4"]));
    terminal.is_asked();
    terminal.types("Hello!\r");
    terminal.sees("cut after 4 tokens");
    terminal.is_asked();
    terminal.types(&format!("{long}\r"));
    terminal.sees("the context holds 60");
    terminal.sees("/reset begins anew");
    terminal.is_asked();
    terminal.types("/save talk.json\r");
    terminal.sees("saved to");
    terminal.is_asked();
    terminal.types(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
    assert_eq!(saved(&machine, "talk.json")["messages"].as_array().unwrap().len(), 2, "the conversation is as it was");

    let mut terminal = Terminal::start(machine.sol(&["run", "-m", &model, "--ctx", "60", "-n", "4", "--shift"]));
    terminal.is_asked();
    for _ in 0..3 {
        terminal.types("Hello!\r");
        terminal.sees("cut after 4 tokens");
        terminal.is_asked();
    }
    terminal.types("/save second.json\r");
    terminal.sees("saved to");
    terminal.is_asked();
    terminal.types(CTRL_D);
    assert_eq!(terminal.ends().code(), Some(0));
    assert!(saved(&machine, "second.json")["messages"].as_array().unwrap().len() < 6, "the oldest is forgotten");
}

#[test]
fn colours_only_where_they_are_wanted() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    for (name, value, coloured) in [("X", "1", true), ("NO_COLOR", "1", false), ("NO_COLOR", "", true)] {
        let mut command = machine.sol(&["run", "-m", &model]);
        command.env(name, value);
        let mut terminal = Terminal::start(command);
        let before = terminal.sees("> ");
        assert_eq!(before.contains("\x1b[1;36m"), coloured, "{name}={value}: {before:?}");
        terminal.types(CTRL_D);
        assert_eq!(terminal.ends().code(), Some(0));
    }
}

#[test]
fn what_a_conversation_can_not_be_held_with() {
    let machine = Machine::new();
    let solar = fixture("solar-tiny");
    for (args, words) in [
        (&["run", "-m", &solar, "--system", "Be brief."][..], "--system-as-user"),
        (&["run", "-m", &fixture("models/llama")], "--ids"),
        (&["run", "-m", &solar, "--raw"], "--raw needs a prompt"),
        (&["run", "-m", &solar, "--json"], "--json needs a prompt"),
        (&["run", "-m", &solar, "--top-p", "7"], "--top-p"),
    ] {
        let mut terminal = Terminal::start(machine.sol(args));
        terminal.sees(words);
        assert_eq!(terminal.ends().code(), Some(1));
    }
}
