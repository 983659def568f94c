//! Hints to the system about memory.

/// Asks for large pages under `memory`, which nobody has touched yet: each saves the system 511 interruptions for small ones. Only
/// a hint, and nothing where the system has none.
pub fn prefer_large_pages<T>(memory: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let start: *mut u8 = memory.as_mut_ptr().cast();
        let before = start.addr().wrapping_neg() % PAGE;
        let Some(left) = size_of_val(memory).checked_sub(before) else {
            return;
        };
        let len = left / PAGE * PAGE;
        // SAFETY: the range belongs to `memory`, and the advice changes no byte of it.
        unsafe { libc::madvise(start.add(before).cast(), len, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
