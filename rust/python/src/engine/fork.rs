//! Engines around `fork`: no lock is held by another thread at the moment that the process is copied.

use crate::errors::IntoPy;
use pyo3::prelude::*;
use sona_core::engine::{Engine, ForkGuard};
use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::sync::Arc;

/// A fork gate that is held while the process forks.
struct Held {
    guard: ManuallyDrop<ForkGuard<'static>>,
    engine: Arc<Engine>,
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: dropped exactly once, here, and before `engine`, which owns the lock.
        unsafe { ManuallyDrop::drop(&mut self.guard) }
    }
}

thread_local! {
    static HELD: RefCell<Vec<Held>> = const { RefCell::new(Vec::new()) };
}

/// Waits for the calls in progress and keeps others out.
pub(super) fn before(py: Python<'_>, engine: &Arc<Engine>) {
    let engine = engine.clone();
    // Others finish their calls without needing the GIL; wait for them without holding it.
    py.detach(|| drop(engine.hold_for_fork()));
    let guard = engine.hold_for_fork();
    // SAFETY: the lock lives in `engine`, which `Held` keeps alive until after the guard is dropped.
    let guard = unsafe { std::mem::transmute::<ForkGuard<'_>, ForkGuard<'static>>(guard) };
    HELD.with_borrow_mut(|held| {
        held.push(Held {
            guard: ManuallyDrop::new(guard),
            engine: engine.clone(),
        });
    });
}

/// Lets others in again; a child goes on with a log of its own.
pub(super) fn after(engine: &Arc<Engine>, child: bool) -> PyResult<()> {
    HELD.with_borrow_mut(|held| held.retain(|h| !Arc::ptr_eq(&h.engine, engine)));
    if child && !engine.is_closed() {
        engine.after_fork().py()
    } else {
        Ok(())
    }
}
