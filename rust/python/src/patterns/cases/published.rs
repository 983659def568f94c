//! A state that readers see whole while a writer prepares the next one.

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use sona_core::Result;
use std::sync::Arc;

/// Readers take a snapshot and never wait; writers take turns.
pub(super) struct Published<T> {
    state: ArcSwap<T>,
    writer: Mutex<()>,
}

impl<T: Clone> Published<T> {
    pub(super) fn new(state: T) -> Self {
        Self {
            state: ArcSwap::from_pointee(state),
            writer: Mutex::new(()),
        }
    }

    /// The state for a glance.
    pub(super) fn load(&self) -> Guard<Arc<T>> {
        self.state.load()
    }

    /// The state to keep, with the GIL released say.
    pub(super) fn snapshot(&self) -> Arc<T> {
        self.state.load_full()
    }

    /// Changes a private copy, then publishes it whole; an error publishes nothing.
    pub(super) fn update<R>(&self, f: impl FnOnce(&mut T) -> Result<R>) -> Result<R> {
        let _one_at_a_time = self.writer.lock();
        let mut next = T::clone(&self.state.load());
        let out = f(&mut next)?;
        self.state.store(Arc::new(next));
        Ok(out)
    }
}
