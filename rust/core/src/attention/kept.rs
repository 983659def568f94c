//! Buffers that stay with their thread from one call to the next: small calls would spend a tenth of their time on fresh memory.

use std::any::Any;
use std::cell::RefCell;

/// Kinds of buffers kept; one of each.
const KINDS: usize = 4;

thread_local! {
    static KEPT: RefCell<Vec<Box<dyn Any>>> = const { RefCell::new(Vec::new()) };
}

/// The buffer that [`keep`] was given last on this thread, whatever is in it, or a new one.
pub(super) fn take<B: Any + Default>() -> Box<B> {
    let kept = KEPT.try_with(|kept| {
        let mut kept = kept.try_borrow_mut().ok()?;
        let at = kept.iter().position(|x| x.is::<B>())?;
        kept.swap_remove(at).downcast::<B>().ok()
    });
    kept.ok().flatten().unwrap_or_default()
}

/// Keeps `buffer` for the next [`take`].
pub(super) fn keep<B: Any>(buffer: Box<B>) {
    // A thread that ends keeps nothing.
    let _ = KEPT.try_with(|kept| {
        if let Ok(mut kept) = kept.try_borrow_mut() {
            kept.retain(|x| !x.is::<B>());
            if kept.len() < KINDS {
                kept.push(buffer);
            }
        }
    });
}
