//! A page that a mapped file no longer has raises SIGBUS when it is read, which would end the process with every model in it. A
//! handler puts zeros in its place and marks the mapping, so that who used what was read can ask [`Guard::is_damaged`] and
//! refuse it.
//!
//! The handler runs wherever a thread happens to be, so it may neither wait nor allocate: it looks into a table that is replaced
//! as a whole and freed once no handler has it. Faults elsewhere go on to whoever handled them before.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libc::{c_int, c_void, siginfo_t};

/// Watches a range of addresses for as long as it lives.
pub(crate) struct Guard {
    damaged: Arc<AtomicBool>,
}

#[derive(Clone)]
struct Watched {
    range: Range<usize>,
    damaged: Arc<AtomicBool>,
}

/// What the handler looks into; null before the first guard.
static TABLE: AtomicPtr<Vec<Watched>> = AtomicPtr::new(std::ptr::null_mut());
/// Handlers that may be looking.
static READERS: AtomicUsize = AtomicUsize::new(0);
/// Held while the table or the handler is replaced.
static CHANGE: Mutex<()> = Mutex::new(());
/// What handled the signal before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE: AtomicUsize = AtomicUsize::new(4096);

impl Guard {
    /// Watches a mapping, which must outlive the guard. The first guard of the process installs the handler.
    pub(crate) fn new(mapping: &[u8]) -> io::Result<Self> {
        install()?;
        let start = mapping.as_ptr() as usize;
        let end = (start + mapping.len()).next_multiple_of(PAGE.load(Ordering::Relaxed));
        let damaged = Arc::new(AtomicBool::new(false));
        change(|table| table.push(Watched { range: start..end, damaged: Arc::clone(&damaged) }));
        Ok(Self { damaged })
    }

    /// Whether something was read that the file did not have.
    pub(crate) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        change(|table| table.retain(|watched| !Arc::ptr_eq(&watched.damaged, &self.damaged)));
    }
}

fn change(change: impl FnOnce(&mut Vec<Watched>)) {
    let _held = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    let old = TABLE.load(Ordering::SeqCst);
    // SAFETY: a table is freed under the lock only, which is held, and not changed once it can be seen.
    let mut table = unsafe { old.as_ref() }.cloned().unwrap_or_default();
    change(&mut table);
    TABLE.store(Box::into_raw(Box::new(table)), Ordering::SeqCst);
    // A handler that has the old table counted itself before; one that comes now gets the new one.
    while READERS.load(Ordering::SeqCst) != 0 {
        std::thread::yield_now();
    }
    if !old.is_null() {
        // SAFETY: it came from a `Box`, and nobody can reach it any more.
        drop(unsafe { Box::from_raw(old) });
    }
}

fn install() -> io::Result<()> {
    let _held = CHANGE.lock().unwrap_or_else(PoisonError::into_inner);
    if PREVIOUS.get().is_some() {
        return Ok(());
    }
    // SAFETY: asks for a number.
    if let Ok(page) = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }) {
        PAGE.store(page, Ordering::Relaxed);
    }
    // SAFETY: all zeros are a valid `sigaction`: no flags, the default handler, an empty mask.
    let (mut ours, mut previous) = unsafe { std::mem::zeroed::<(libc::sigaction, libc::sigaction)>() };
    ours.sa_sigaction = on_bus_error as *const () as usize;
    // On the thread's own stack: the one that Rust gives its threads for signals has little left where the system has saved the tile
    // registers of AMX there.
    ours.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
    // SAFETY: both structures are valid, and the handler does only what a handler may.
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const ours, &raw mut previous) } != 0 {
        return Err(io::Error::last_os_error());
    }
    PREVIOUS.get_or_init(|| previous);
    Ok(())
}

/// The handler. Async-signal-safe: atomics, `mmap`, and what [`pass_on`] does.
unsafe extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: the system gives a handler with SA_SIGINFO a valid description of the signal.
    let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
    if code != libc::BUS_ADRERR || !mend(address) {
        // SAFETY: the arguments of this handler.
        unsafe { pass_on(signal, code, info, context) };
    }
}

/// Puts zeros from the faulting page to the end of its mapping; `false`: the address is none of ours.
fn mend(address: usize) -> bool {
    READERS.fetch_add(1, Ordering::SeqCst);
    // SAFETY: a table is not freed while a reader is counted.
    let table = unsafe { TABLE.load(Ordering::SeqCst).as_ref() };
    let watched = table.and_then(|table| table.iter().find(|watched| watched.range.contains(&address)));
    let mended = watched.is_some_and(|watched| {
        // Before the zeros: they must not be taken for weights by a thread that sees them.
        watched.damaged.store(true, Ordering::SeqCst);
        // What follows is gone too. One fault for all of it, and few mappings: the system limits their number.
        put_zeros(address & !(PAGE.load(Ordering::Relaxed) - 1)..watched.range.end)
    });
    READERS.fetch_sub(1, Ordering::SeqCst);
    mended
}

fn put_zeros(pages: Range<usize>) -> bool {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: `errno` is this thread's; the interrupted code may be about to read it.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: whole pages of a mapping that the guard's owner keeps, read-only as before: the thread that faulted is reading
    // it. Its contents change, as those of a mapped file may at any time.
    let got = unsafe { libc::mmap(pages.start as *mut c_void, pages.len(), libc::PROT_READ, flags, -1, 0) };
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = errno };
    got != libc::MAP_FAILED
}

/// What would have happened without this handler.
///
/// # Safety
/// The arguments are those of a handler.
unsafe fn pass_on(signal: c_int, code: c_int, info: *mut siginfo_t, context: *mut c_void) {
    let previous = PREVIOUS.get().map_or((libc::SIG_DFL, 0), |previous| (previous.sa_sigaction, previous.sa_flags));
    match previous {
        // A fault can not be ignored; a signal that somebody sent (a code of 0 or less) can.
        (libc::SIG_IGN, _) if code <= 0 => {}
        (libc::SIG_DFL | libc::SIG_IGN, _) => {
            // SAFETY: both may be called in a handler; the signal comes when this one returns.
            unsafe {
                libc::signal(signal, libc::SIG_DFL);
                libc::raise(signal);
            }
        }
        (handler, flags) if flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: the flag says that the handler has this type.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        (handler, _) => {
            // SAFETY: without the flag a handler has this type.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}
