//! Hints to the system about memory.

/// Asks for large pages under `memory`, which nobody has touched yet: each saves the system 511 interruptions for small ones. Only
/// a hint, and nothing where the system has none.
pub fn prefer_large_pages(memory: &mut [u8]) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let before = memory.as_ptr().addr().wrapping_neg() % PAGE;
        let Some(whole) = memory.get_mut(before..) else {
            return;
        };
        let len = whole.len() / PAGE * PAGE;
        // SAFETY: the range belongs to `memory`, and the advice changes no byte of it.
        unsafe { libc::madvise(whole.as_mut_ptr().cast(), len, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = memory;
}
