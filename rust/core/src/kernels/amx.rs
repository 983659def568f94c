//! The tile registers of AMX: eight tables of 16 rows of 64 bytes, and products of bfloat16 tables summed in single precision.
//!
//! The compiler knows nothing of these registers and leaves them alone. A [`Session`] sets them up and gives them back empty, as
//! it found them, so that no state outlives a kernel and no thread switch has to save it afterwards.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module: the processor has AMX, the process may use it, a session is open"
)]

use super::tier::{Table, Tier};
use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// AVX-512 with everything else as it is.
pub(super) static TABLE: Table = Table {
    tier: Tier::Amx,
    ..super::avx512::TABLE
};

/// The processor has tiles with bfloat16 and the system lets this process use them.
pub(super) fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        const BF16_AND_TILE: u32 = 1 << 22 | 1 << 24;
        super::avx512::available() && __cpuid_count(7, 0).edx & BF16_AND_TILE == BF16_AND_TILE && permitted()
    })
}

/// The processor also has products of tables of bytes.
pub(super) fn multiplies_bytes() -> bool {
    const INT8: u32 = 1 << 25;
    available() && __cpuid_count(7, 0).edx & INT8 == INT8
}

/// Asks Linux for the tile registers, once for the whole process and the threads it will start.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const REQUEST_PERMISSION: u64 = 0x1023;
    const TILE_DATA: u64 = 18;
    let mut answer = ARCH_PRCTL;
    // SAFETY: the call touches no memory of the process; the kernel overwrites rcx and r11.
    unsafe {
        asm!("syscall", inout("rax") answer, in("rdi") REQUEST_PERMISSION, in("rsi") TILE_DATA, out("rcx") _, out("r11") _, options(nostack));
    }
    answer == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Palette 1, all eight tiles full size.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

static FULL: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

thread_local! {
    /// Sessions open on this thread.
    static OPEN: Cell<usize> = const { Cell::new(0) };
}

/// Tile registers in use by this thread, until the last session is dropped.
#[derive(Debug)]
pub(super) struct Session(PhantomData<*const ()>);

impl Session {
    /// None where the processor or the system lacks them.
    pub fn open() -> Option<Self> {
        if !available() {
            return None;
        }
        if OPEN.get() == 0 {
            // SAFETY: the processor has the instruction and the process may use it.
            unsafe {
                asm!("ldtilecfg [{}]", in(reg) &raw const FULL, options(nostack, readonly, preserves_flags));
            };
        }
        OPEN.set(OPEN.get() + 1);
        Some(Self(PhantomData))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        OPEN.set(OPEN.get() - 1);
        if OPEN.get() == 0 {
            // SAFETY: a session was opened, so the processor has the instruction.
            unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
        }
    }
}

/// Zeros in register `$t`.
macro_rules! zero {
    ($t:literal) => {
        std::arch::asm!(
            concat!("tilezero tmm", $t),
            options(nostack, nomem, preserves_flags)
        )
    };
}

/// Sixteen rows, `$stride` bytes apart, from `$p` into register `$t`.
macro_rules! load {
    ($t:literal, $p:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tileloadd tmm", $t, ", [{p} + {s}]"),
            p = in(reg) $p, s = in(reg) $stride,
            options(nostack, readonly, preserves_flags)
        )
    };
}

/// Register `$t` to sixteen rows at `$p`, `$stride` bytes apart.
macro_rules! store {
    ($t:literal, $p:expr, $stride:expr) => {
        std::arch::asm!(
            concat!("tilestored [{p} + {s}], tmm", $t),
            p = in(reg) $p, s = in(reg) $stride,
            options(nostack, preserves_flags)
        )
    };
}

/// Register `$c` plus rows of pairs `$a` times pairs of rows `$b`.
macro_rules! multiply {
    ($c:literal, $a:literal, $b:literal) => {
        std::arch::asm!(
            concat!("tdpbf16ps tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nostack, nomem, preserves_flags)
        )
    };
}

/// Register `$c` plus rows of fours of bytes `$a` times fours of rows `$b`, without signs, in 32 bits.
macro_rules! multiply_bytes {
    ($c:literal, $a:literal, $b:literal) => {
        std::arch::asm!(
            concat!("tdpbuud tmm", $c, ", tmm", $a, ", tmm", $b),
            options(nostack, nomem, preserves_flags)
        )
    };
}

pub(super) use {load, multiply, multiply_bytes, store, zero};
