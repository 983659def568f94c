//! State-space models with selection: S6 (Gu & Dao 2023, algorithm 2) and SSD (Dao & Gu 2024), forward and backward.

mod dual;
mod selective;

pub use dual::{Dual, DualGradients};
pub use selective::{Selective, SelectiveGradients};

/// Part `i` of values in parts of `len`.
fn sequence<T>(x: &[T], i: usize, len: usize) -> &[T] {
    &x[i * len..(i + 1) * len]
}
