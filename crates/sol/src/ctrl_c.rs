//! Ctrl-C stops what runs (an answer, a measurement), and the program if it is pressed again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use anyhow::{Context, Result};
use sol_engine::Interrupt;

use crate::common::say;

/// What shells report for a program that Ctrl-C ended.
pub(crate) const EXIT_CODE: u8 = 130;

/// How many presses an answer takes before the program ends.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// The second press ends the program.
    None,
    /// The second is a warning: a conversation would be lost.
    WarnOnce,
}

/// The handler of this process.
pub(crate) struct CtrlC {
    interrupt: Interrupt,
    presses: Arc<AtomicU8>,
}

impl CtrlC {
    /// From here on Ctrl-C sets the flag. Before, it ends the program, as nothing is lost then.
    pub(crate) fn install(patience: Patience) -> Result<Self> {
        let handler = Self { interrupt: Interrupt::default(), presses: Arc::default() };
        let (interrupt, presses) = (handler.interrupt.clone(), Arc::clone(&handler.presses));
        ctrlc::set_handler(move || {
            interrupt.set();
            match (presses.fetch_add(1, Ordering::Relaxed), patience) {
                (0, _) => {}
                (1, Patience::WarnOnce) => {
                    say("\nstopping after this piece of the prompt; Ctrl-C once more leaves the program");
                }
                _ => std::process::exit(i32::from(EXIT_CODE)),
            }
        })
        .context("can not handle Ctrl-C")?;
        Ok(handler)
    }

    /// The flag.
    pub(crate) fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    /// Forgets earlier presses: a new answer begins.
    pub(crate) fn reset(&self) {
        self.presses.store(0, Ordering::Relaxed);
        self.interrupt.take();
    }
}
