//! Continual learning: elastic weight consolidation, task boundaries, prioritised replay.

mod boundary;
mod config;
mod constraint;
mod ewc;
mod fisher;
mod replay;
mod replay_config;
mod sum_tree;
mod task;

pub use boundary::{BoundaryConfig, BoundaryDetector};
pub use config::EwcConfig;
pub use constraint::Constraint;
pub use ewc::Ewc;
pub use fisher::estimate_fisher;
pub use replay::{Added, PriorityReplay, SavedItem};
pub use replay_config::{KeepPolicy, ReplayConfig};

use crate::error::{Error, Result, check_finite};
use crate::kernels;

/// Errors on NaN and infinity, and on values whose squares leave single precision.
fn check_gradient(name: &'static str, g: &[f32]) -> Result<()> {
    if kernels::dot(g, g).is_finite() {
        return Ok(());
    }
    check_finite(name, g)?;
    Err(Error::value(
        name,
        "a vector whose squared norm is below 3.4e38",
        "a larger one",
    ))
}
