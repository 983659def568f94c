//! What is done to a gradient.

use crate::error::{Error, Result};

/// What [`super::Ewc::apply_constraints`] does to a gradient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constraint {
    /// Adds the gradient of the penalty.
    Penalty,
    /// Takes out the component along which a descent step would raise the penalty.
    Project,
    /// Divides by 1 + λΣF.
    Precondition,
}

impl Constraint {
    /// From its public name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "penalty" => Ok(Self::Penalty),
            "project" => Ok(Self::Project),
            "precondition" => Ok(Self::Precondition),
            _ => Err(Error::value(
                "mode",
                "\"penalty\", \"project\" or \"precondition\"",
                format!("{name:?}"),
            )),
        }
    }
}
