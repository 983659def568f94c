//! Threads that live for one call and work on many pieces of it, one after the other.
//!
//! Starting a thread takes as long as some of the pieces, so it is done once. Between pieces a thread waits awake for as long as
//! going to sleep and being woken takes. None outlives its [`Team`], so a fork leaves nothing behind.

use parking_lot::{Condvar, Mutex};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Looks before a waiting thread offers its processor to others, and further looks, each after such an offer, before it goes to
/// sleep: some tens of microseconds, and some hundreds if nobody wants it. Being woken takes tens.
const AWAKE: usize = 1000;
const PATIENT: usize = 500;

/// Looks for a while whether `ready`.
fn watch(ready: impl Fn() -> bool) {
    for look in 0..AWAKE + PATIENT {
        if ready() {
            break;
        }
        if look < AWAKE {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
    }
}

/// Work of one round, called by every thread that comes in time. Valid while [`State::inside`] counts threads that have it.
#[derive(Clone, Copy)]
struct Work(*const (dyn Fn() + Sync));

// SAFETY: what it points to may be called from any thread, and `Team::round` keeps it alive while any has it.
unsafe impl Send for Work {}

#[derive(Default)]
struct State {
    work: Option<Work>,
    round: usize,
    /// Threads, other than the one that owns the team, that run the work of this round.
    inside: usize,
    panic: Option<Box<dyn Any + Send>>,
    over: bool,
    /// Threads that have not left.
    here: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// The round of `state`, for those awake.
    round: AtomicUsize,
    begun: Condvar,
    /// `inside` of `state`, for those awake.
    inside: AtomicUsize,
    ended: Condvar,
}

/// Threads beside the one that made it.
pub struct Team {
    shared: Arc<Shared>,
    /// Beside the one that made it.
    others: usize,
    size: usize,
}

impl std::fmt::Debug for Team {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Team").field("size", &self.size).finish()
    }
}

impl Team {
    /// A team of `size` threads with the calling one, at least one. Where the system refuses threads, the others do their work.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let mut others = 0;
        for _ in 1..size {
            let its = shared.clone();
            // Counted before it runs: it counts itself out.
            shared.state.lock().here += 1;
            let started = std::thread::Builder::new().spawn(move || its.serve());
            if started.is_err() {
                shared.state.lock().here -= 1;
                break;
            }
            others += 1;
        }
        Self {
            shared,
            others,
            size: size.max(1),
        }
    }

    /// The number of threads that was asked for.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Runs `f` on every part. Parts are handed out one by one, so uneven ones even out; what a part gives must not depend on
    /// who has it.
    pub fn run<P: Send>(&self, parts: Vec<P>, f: impl Fn(P) + Sync) {
        if self.others == 0 || parts.len() <= 1 {
            parts.into_iter().for_each(f);
            return;
        }
        let slots: Vec<Mutex<Option<P>>> = parts.into_iter().map(|p| Mutex::new(Some(p))).collect();
        let next = AtomicUsize::new(0);
        self.round(&|| {
            while let Some(slot) = slots.get(next.fetch_add(1, Ordering::Relaxed)) {
                let part = slot.lock().take();
                part.into_iter().for_each(&f);
            }
        });
    }

    /// Calls `work` on this thread and on all others that come before it returns here.
    fn round(&self, work: &(dyn Fn() + Sync)) {
        // SAFETY: only the lifetime changes. Threads take the pointer under the lock and are counted there; `Leave` takes it
        // back under the lock and waits for all who have it, even if `work` panics here.
        let work_for_all: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(work) };
        let mut state = self.shared.state.lock();
        state.work = Some(Work(work_for_all));
        state.panic = None;
        state.round += 1;
        self.shared.round.store(state.round, Ordering::Relaxed);
        drop(state);
        self.shared.begun.notify_all();
        let leave = Leave(&self.shared);
        work();
        drop(leave);
        let panic = self.shared.state.lock().panic.take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Ends a round when it is dropped.
struct Leave<'a>(&'a Shared);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        self.0.state.lock().work = None;
        watch(|| self.0.inside.load(Ordering::Relaxed) == 0);
        let mut state = self.0.state.lock();
        while state.inside > 0 {
            self.0.ended.wait(&mut state);
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut seen = 0;
        loop {
            watch(|| self.round.load(Ordering::Relaxed) != seen);
            let mut state = self.state.lock();
            while state.round == seen && !state.over {
                self.begun.wait(&mut state);
            }
            if state.over {
                state.here -= 1;
                drop(state);
                self.ended.notify_one();
                return;
            }
            seen = state.round;
            // A round that is over already has no work.
            let Some(work) = state.work else { continue };
            state.inside += 1;
            self.inside.store(state.inside, Ordering::Relaxed);
            drop(state);
            // SAFETY: this thread is counted, so the work lives until it is not any more.
            let result = catch_unwind(AssertUnwindSafe(|| unsafe { (*work.0)() }));
            let mut state = self.state.lock();
            if let Err(panic) = result {
                state.panic = Some(panic);
            }
            state.inside -= 1;
            self.inside.store(state.inside, Ordering::Relaxed);
            let last = state.inside == 0;
            drop(state);
            if last {
                self.ended.notify_one();
            }
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.over = true;
        state.round += 1;
        self.shared.round.store(state.round, Ordering::Relaxed);
        drop(state);
        self.shared.begun.notify_all();
        // Until they have nothing left to do but end: the system takes its time over that.
        watch(|| self.shared.state.try_lock().is_some_and(|state| state.here == 0));
        let mut state = self.shared.state.lock();
        while state.here > 0 {
            self.shared.ended.wait(&mut state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_done_once_in_every_round() {
        for size in [1, 2, 3, 7] {
            let team = Team::new(size);
            let mut sums = vec![0u64; 50];
            for round in 0..200 {
                let parts = sums.iter_mut().enumerate().take(round % 51).collect();
                team.run(parts, |(i, sum): (usize, &mut u64)| *sum += i as u64 + 1);
            }
            for (i, sum) in sums.iter().enumerate() {
                let rounds = (0..200).filter(|round| round % 51 > i).count() as u64;
                assert_eq!(*sum, rounds * (i as u64 + 1));
            }
        }
    }

    #[test]
    fn threads_that_went_to_sleep_come_back() {
        let team = Team::new(3);
        for _ in 0..3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
            let met = AtomicUsize::new(0);
            team.run(vec![(); 3], |()| {
                met.fetch_add(1, Ordering::Relaxed);
                // Each holds its part until all three have one.
                while met.load(Ordering::Relaxed) < 3 {
                    std::thread::yield_now();
                }
            });
            assert_eq!(met.into_inner(), 3);
        }
    }

    #[test]
    fn a_panic_reaches_the_owner_and_the_team_goes_on() {
        let team = Team::new(2);
        let done = AtomicUsize::new(0);
        for bad in 0..8 {
            let failed = catch_unwind(AssertUnwindSafe(|| {
                team.run((0..8).collect(), |i: usize| {
                    assert!(i != bad, "as intended");
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }));
            assert!(failed.is_err());
        }
        let before = done.load(Ordering::Relaxed);
        team.run(vec![1, 2, 3], |i| {
            done.fetch_add(i, Ordering::Relaxed);
        });
        assert_eq!(done.into_inner(), before + 6);
    }
}
