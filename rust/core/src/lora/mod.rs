//! Adapters: the fast low-rank one, the slow layered one, optimisers, merging, pools, quantisation and exchange files.

mod factors;
mod micro;
mod optim;
mod shared;
mod trust;

pub use factors::Factors;
pub use micro::{ApplyReport, MicroConfig, MicroLora};
pub use optim::{Optimizer, Rule, clip_by_norm};
pub use shared::SharedMicroLora;
