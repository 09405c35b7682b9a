//! A fixed set of threads that run one function together.
//!
//! A forward pass is some hundreds of short parallel regions, so entering one must cost about a microsecond: workers spin on
//! a counter between regions and park when none came for a while (an idle process takes no CPU). A region has as many shares
//! as there are threads; each thread claims its own, and the caller claims those of threads that have not come by the time it
//! has finished: on a busy machine nobody waits for a worker that the system has not let run yet. The pool knows nothing of
//! what it runs.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::{Deref, Range};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sol_compute::ComputeError;

/// More threads than any one machine has is a typing mistake.
const MAX_THREADS: usize = 1024;

/// How long a worker keeps looking for the next region before it parks.
const SPIN: Duration = Duration::from_micros(150);

/// Looks at the counter between two looks at the clock.
const LOOKS: u32 = 64;

/// A pool of threads, the caller of [`Pool::run`] among them.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held while a region runs: regions of several callers take turns.
    turn: Mutex<()>,
}

/// A region's function, its type erased: `call(data, thread)`.
#[derive(Clone, Copy)]
struct Job {
    data: *const (),
    call: unsafe fn(*const (), usize),
}

struct Shared {
    /// Counts regions; a change tells workers that `job` is new.
    epoch: Apart<AtomicU32>,
    job: UnsafeCell<Job>,
    /// Shares of the current region that are not finished.
    unfinished: Apart<AtomicUsize>,
    stop: AtomicBool,
    /// One a worker.
    workers: Vec<Apart<Worker>>,
    /// The first panic of a worker in the current region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// More threads than cores: spinning would take time from the thread that is waited for.
    crowded: bool,
}

/// On cache lines of its own: one thread's writing must not slow another's looking at something else.
#[repr(align(128))]
struct Apart<T>(T);

impl<T> Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What is known of a worker.
struct Worker {
    /// The last region whose share of this worker was claimed, by it or by the caller.
    claimed: AtomicU32,
    /// Whether it is about to park or parked.
    parked: AtomicBool,
}

impl Worker {
    /// Whether the worker's share of region `epoch` was still to be had and is now the claimer's.
    fn claim(&self, epoch: u32) -> bool {
        self.claimed.compare_exchange(epoch.wrapping_sub(1), epoch, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

// SAFETY: `job` is written by the one caller that holds `turn`, before the store to `epoch` that publishes it and only when all
// shares of the region before are finished. A worker reads it only after it has claimed its share of the current region, which
// then does not end before the worker has finished. The pointer in it is to a `Sync` closure that outlives the region, because
// `run` does not return (or unwind) before `unfinished` is 0.
unsafe impl Sync for Shared {}
// SAFETY: as above.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a region: a region within a region runs on the spot, instead of waiting for itself.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Starts `threads - 1` workers. More threads than cores are allowed.
    pub fn new(threads: usize) -> Result<Self, ComputeError> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(ComputeError::Threads(format!(
                "--threads {threads} makes no sense: give a number from 1 to {MAX_THREADS}"
            )));
        }
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            epoch: Apart(AtomicU32::new(0)),
            job: UnsafeCell::new(Job { data: std::ptr::null(), call: |_, _| {} }),
            unfinished: Apart(AtomicUsize::new(0)),
            stop: AtomicBool::new(false),
            workers: (1..threads).map(|_| Apart(Worker { claimed: AtomicU32::new(0), parked: AtomicBool::new(false) })).collect(),
            panic: Mutex::new(None),
            crowded: threads > cores,
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(threads - 1), turn: Mutex::new(()) };
        for thread in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker =
                std::thread::Builder::new().name(format!("sol-cpu-{thread}")).spawn(move || shared.work(thread)).map_err(
                    |e| ComputeError::Threads(format!("can not start thread {thread} of {threads}: {e}; lower --threads")),
                )?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads run a region, the caller among them.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `f(0)` .. `f(threads - 1)`, each once and, if the system lets them, all at the same time, and returns when all are
    /// done. A panic of any of them is passed on to the caller. From within a region it runs all of them on the calling thread.
    pub fn run<F: Fn(usize) + Sync>(&self, f: F) {
        if self.workers.is_empty() || INSIDE.get() {
            (0..self.threads()).for_each(f);
            return;
        }
        // SAFETY (of the call): `data` is the `F` that `run` borrows.
        unsafe fn call<F: Fn(usize)>(data: *const (), thread: usize) {
            // SAFETY: `data` points to an `F` that lives until the region ends.
            unsafe { (*data.cast::<F>())(thread) }
        }
        let turn: MutexGuard<'_, ()> = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = &*self.shared;
        // SAFETY: all shares of the last region are finished, and nobody reads `job` before `epoch` changes.
        unsafe { *shared.job.get() = Job { data: (&raw const f).cast(), call: call::<F> } };
        shared.unfinished.store(self.workers.len(), Ordering::Relaxed);
        let epoch = shared.epoch.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        self.wake();
        INSIDE.set(true);
        let mut panic = catch_unwind(AssertUnwindSafe(|| f(0))).err();
        for (i, worker) in shared.workers.iter().enumerate() {
            if worker.claim(epoch) {
                let stolen = catch_unwind(AssertUnwindSafe(|| f(i + 1)));
                panic = panic.or(stolen.err());
                shared.unfinished.fetch_sub(1, Ordering::Relaxed);
            }
        }
        INSIDE.set(false);
        shared.wait();
        let theirs = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(turn);
        if let Some(payload) = panic.or(theirs) {
            resume_unwind(payload);
        }
    }

    /// Unparks the workers that have gone to sleep.
    fn wake(&self) {
        for (handle, worker) in self.workers.iter().zip(&self.shared.workers) {
            if worker.parked.load(Ordering::SeqCst) {
                handle.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.fetch_add(1, Ordering::SeqCst);
        self.wake();
        for worker in self.workers.drain(..) {
            // A worker catches its panics: joining can not fail in a way that matters here.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// A worker's life.
    fn work(&self, thread: usize) {
        INSIDE.set(true);
        let me = &self.workers[thread - 1];
        let mut seen = 0;
        loop {
            seen = self.next(seen, &me.parked);
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            if !me.claim(seen) {
                continue;
            }
            // SAFETY: the share is claimed, so the caller keeps `job` until this thread has finished.
            let job = unsafe { *self.job.get() };
            // SAFETY: `call` belongs to `data`, which lives until this thread has finished.
            let done = catch_unwind(AssertUnwindSafe(|| unsafe { (job.call)(job.data, thread) }));
            if let Err(payload) = done {
                self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
            }
            self.unfinished.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits for an epoch other than `seen`: spins, then parks.
    fn next(&self, seen: u32, parked: &AtomicBool) -> u32 {
        let start = Instant::now();
        loop {
            for _ in 0..LOOKS {
                let epoch = self.epoch.load(Ordering::Acquire);
                if epoch != seen {
                    return epoch;
                }
                std::hint::spin_loop();
            }
            if self.crowded {
                std::thread::yield_now();
            }
            if start.elapsed() > SPIN {
                break;
            }
        }
        // Either the caller sees the flag and unparks, or this thread sees the caller's epoch: both sides are SeqCst.
        parked.store(true, Ordering::SeqCst);
        let epoch = loop {
            let epoch = self.epoch.load(Ordering::SeqCst);
            if epoch != seen {
                break epoch;
            }
            std::thread::park();
        };
        parked.store(false, Ordering::SeqCst);
        epoch
    }

    /// The caller's wait for the workers.
    fn wait(&self) {
        let mut looks = 0;
        while self.unfinished.load(Ordering::Acquire) != 0 {
            looks += 1;
            // A worker that takes this long may have lost its core to this very loop.
            if looks % LOOKS == 0 && (self.crowded || looks > 256 * LOOKS) {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// Part `thread` of `threads` of the numbers `0..n`, cut at multiples of `unit`.
pub fn share(n: usize, unit: usize, thread: usize, threads: usize) -> Range<usize> {
    let units = n.div_ceil(unit);
    let at = |t: usize| (units * t / threads * unit).min(n);
    at(thread)..at(thread + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU64;

    fn pool(threads: usize) -> Pool {
        Pool::new(threads).expect("threads start")
    }

    #[test]
    fn every_share_runs_once_a_region() {
        for threads in [1, 2, 3, 9] {
            let pool = pool(threads);
            let counts: Vec<AtomicU64> = (0..threads).map(|_| AtomicU64::new(0)).collect();
            for _ in 0..300 {
                pool.run(|t| {
                    counts[t].fetch_add(1, Ordering::Relaxed);
                });
            }
            assert!(counts.iter().all(|c| c.load(Ordering::Relaxed) == 300), "{threads} threads");
        }
    }

    #[test]
    fn parked_workers_wake_up() {
        let pool = pool(3);
        let count = AtomicU64::new(0);
        for _ in 0..5 {
            let start = Instant::now();
            while !pool.shared.workers.iter().all(|w| w.parked.load(Ordering::SeqCst)) {
                assert!(start.elapsed() < Duration::from_secs(20), "an idle pool sleeps");
                std::thread::sleep(SPIN);
            }
            pool.run(|_| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        assert_eq!(count.load(Ordering::Relaxed), 15);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = pool(3);
        for culprit in 0..3 {
            let caught = catch_unwind(AssertUnwindSafe(|| pool.run(|t| assert!(t != culprit, "thread {t} fell"))));
            let payload = caught.expect_err("the panic is passed on");
            let text = payload.downcast_ref::<String>().expect("a formatted panic");
            assert_eq!(text, &format!("thread {culprit} fell"));
        }
        let count = AtomicU64::new(0);
        pool.run(|_| {
            count.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(count.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn callers_take_turns_and_nesting_does_not_hang() {
        let pool = pool(2);
        let count = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        pool.run(|_| {
                            pool.run(|_| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::Relaxed), 3 * 50 * 4);
    }

    #[test]
    fn senseless_thread_counts_are_refused() {
        for threads in [0, MAX_THREADS + 1, usize::MAX] {
            let error = Pool::new(threads).err().expect("refused").to_string();
            assert!(error.contains(&threads.to_string()) && error.contains("1024"), "{error}");
        }
    }

    #[test]
    fn shares_cover_everything_once_and_keep_units_whole() {
        for n in [0, 1, 7, 8, 100, 4097] {
            for unit in [1, 8, 16] {
                for threads in [1, 2, 3, 5, 64] {
                    let mut next = 0;
                    for t in 0..threads {
                        let range = share(n, unit, t, threads);
                        assert_eq!(range.start, next);
                        assert!(range.end == n || range.end.is_multiple_of(unit));
                        next = range.end;
                    }
                    assert_eq!(next, n);
                }
            }
        }
    }
}
