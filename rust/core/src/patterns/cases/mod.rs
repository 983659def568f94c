//! The flagship's rule: a kernel adapter and normalised recall over remembered cases, and the gate of items without feedback.
//!
//! A case k is (q_k, C_k, g_k, m_k): the request, the items that were chosen, a listwise gradient and a weight. All vectors
//! have unit length. For a request q and its nearest cases:
//!
//! ```text
//! a_k = exp((q·q_k − 1)/h_a)     u = q + η Σ a_k g_k                                  û = u/|u|    (adapt)
//! b_k = exp((q·q_k − 1)/h_r)     r(d) = Σ_{k: d ∈ C_k} m_k b_k / (Σ_k |m_k| b_k + κ)               (recall)
//! s(d) = base(d) + (û − q)·d + w·r(d)                               base(d) = q·d unless given    (rank)
//! ```
//!
//! With a half-life, a_k and b_k are further multiplied by 2^(−age/half-life). The age of a case is the time of the latest case
//! ever learned less its own: a clock of the state, not of the wall.
//!
//! The sum in the denominator of r runs over the choices (m > 0) for an item with net credit, over the rejections (m < 0) for
//! an item with net discredit: rejecting one item takes nothing from another.
//!
//! It is functional gradient descent of the ranking loss in a kernel space: exactly the identity without cases,
//! self-limiting as the error goes to zero, and it reaches items that were never chosen through their vectors.

mod aging;
#[cfg(test)]
mod aging_tests;
mod as_new;
mod candidates;
mod counts;
mod coverage;
mod credit;
mod evidence;
mod found;
mod gate;
mod gate_params;
#[cfg(test)]
mod gate_tests;
mod gradient;
mod memory;
mod multiplier;
mod params;
mod probe;
mod running;
mod search;
mod segment;
mod state;
mod strays;
#[cfg(test)]
mod tests;

pub(crate) use aging::check_half_life;
pub use as_new::AsNew;
pub use candidates::{Candidates, Scored};
pub use found::Found;
pub use gate::{ItemGate, Looked};
pub use gate_params::{GateMode, GateParams};
pub use memory::{CaseMemory, CaseView, NewCase};
pub use params::CaseParams;
pub use probe::Probe;
pub use segment::CaseId;
pub use strays::StrayClicks;
