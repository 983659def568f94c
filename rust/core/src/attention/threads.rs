//! How many threads attention may use, and work shared among them.
//!
//! Threads live for one call: none is kept, so a fork leaves nothing behind. Work is split by index, never by timing, and
//! each piece writes its own part of the result: the same bits for every number of threads.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

static LIMIT: AtomicUsize = AtomicUsize::new(0);

/// Threads that a call may use: what [`set`] said, else the processors available when it was first asked for.
#[must_use]
pub fn get() -> usize {
    // Counting them reads files of the system, which takes longer than attention over a hundred tokens.
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    match LIMIT.load(Ordering::Relaxed) {
        0 => *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from)),
        n => n,
    }
}

/// Sets the number of threads for all later calls; at least 1.
pub fn set(n: usize) {
    LIMIT.store(n.max(1), Ordering::Relaxed);
}

/// Multiply-adds per thread below which another one costs more than it brings: with 5 million,
/// eight heads of 100 tokens were slower on two threads than on one (`benches/python/bench_attention.py`).
const WORTH: usize = 16_000_000;

/// Threads for `pieces` pieces of `cost` multiply-adds in all.
#[must_use]
pub fn worth(pieces: usize, cost: usize) -> usize {
    get().min(pieces).min(cost / WORTH + 1).max(1)
}

/// Runs `work(piece, state)` for every piece on `threads` threads, each with a state of its own from `state()`. The pieces are
/// handed out one by one, so uneven ones even out.
pub fn share<P: Send, S>(
    threads: usize,
    pieces: Vec<P>,
    state: impl Fn() -> S + Sync,
    work: impl Fn(P, &mut S) + Sync,
) {
    if threads <= 1 || pieces.len() <= 1 {
        let mut s = state();
        for p in pieces {
            work(p, &mut s);
        }
        return;
    }
    let queue = parking_lot::Mutex::new(pieces.into_iter());
    let run = || {
        let mut s = state();
        loop {
            let next = queue.lock().next();
            let Some(p) = next else { break };
            work(p, &mut s);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Where the system refuses a thread, the others do its work.
            if std::thread::Builder::new().spawn_scoped(scope, run).is_err() {
                break;
            }
        }
        run();
    });
}
