//! The one error type of the core. The binding maps each variant to one Python exception.

use std::path::PathBuf;

/// Result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong in the core. Each message names the argument, what was expected and what came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A constructor argument or configuration field is out of range.
    #[error("{name}: expected {expected}, got {got}")]
    Config {
        /// Field or argument.
        name: &'static str,
        /// What is accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An argument of a call is out of range.
    #[error("{name}: expected {expected}, got {got}")]
    Value {
        /// Argument.
        name: &'static str,
        /// What is accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// An array has the wrong number of axes or an impossible shape.
    #[error("{name}: expected shape {expected}, got {got}")]
    Shape {
        /// Argument.
        name: &'static str,
        /// What is accepted.
        expected: String,
        /// What came.
        got: String,
    },
    /// A vector has the wrong length.
    #[error("{name}: expected dimension {expected}, got {got}")]
    Dimension {
        /// Argument.
        name: &'static str,
        /// Length that was expected.
        expected: usize,
        /// Length that came.
        got: usize,
    },
    /// NaN or infinity in an input.
    #[error("{name}: not finite at index {index} ({value})")]
    NotFinite {
        /// Argument.
        name: &'static str,
        /// Flat index of the first offending value.
        index: usize,
        /// The value.
        value: f32,
    },
    /// Something is too large for its budget.
    #[error("{name}: {limit}, got {got}")]
    Capacity {
        /// What is too large.
        name: &'static str,
        /// The limit in words.
        limit: String,
        /// What came.
        got: String,
    },
    /// Reading or writing state failed.
    #[error("{action} {}: {source}", path.display())]
    Store {
        /// What was attempted, for instance "append to".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },
    /// State bytes are damaged, foreign or of an unknown version.
    #[error("{what}: {reason}")]
    Corrupt {
        /// Which state.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A scope is unknown, or a reference crosses scopes.
    #[error("scope {scope:?}: {reason}")]
    Scope {
        /// The scope's name.
        scope: String,
        /// Why it was refused.
        reason: String,
    },
    /// Learning could not proceed.
    #[error("{0}")]
    Learning(String),
}

impl Error {
    /// [`Error::Config`] from anything printable.
    pub fn config(name: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Config {
            name,
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// [`Error::Value`] from anything printable.
    pub fn value(name: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Value {
            name,
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// [`Error::Shape`] from anything printable.
    pub fn shape(name: &'static str, expected: impl Into<String>, got: impl ToString) -> Self {
        Self::Shape {
            name,
            expected: expected.into(),
            got: got.to_string(),
        }
    }

    /// [`Error::Store`] for `path`.
    pub fn store(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::Store {
            action,
            path: path.into(),
            source,
        }
    }

    /// [`Error::Corrupt`].
    pub fn corrupt(what: impl Into<String>, reason: impl ToString) -> Self {
        Self::Corrupt {
            what: what.into(),
            reason: reason.to_string(),
        }
    }
}

/// Errors unless `got == expected`.
pub fn check_dim(name: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got {
        Ok(())
    } else {
        Err(Error::Dimension { name, expected, got })
    }
}

/// Errors at the first NaN or infinity.
pub fn check_finite(name: &'static str, x: &[f32]) -> Result<()> {
    if crate::kernels::all_finite(x) {
        return Ok(());
    }
    match x.iter().position(|v| !v.is_finite()) {
        Some(index) => Err(Error::NotFinite {
            name,
            index,
            value: x[index],
        }),
        None => Ok(()),
    }
}

/// Errors on a number that is NaN or infinite.
pub fn check_number(name: &'static str, value: f64) -> Result<()> {
    if value.is_finite() {
        return Ok(());
    }
    let value = value as f32;
    Err(Error::NotFinite {
        name,
        index: 0,
        value,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_finite_names_the_first_bad_index() {
        for n in 1..70 {
            let mut x = vec![f32::MAX; n];
            assert!(check_finite("x", &x).is_ok());
            x[n - 1] = f32::NAN;
            let err = check_finite("x", &x).unwrap_err();
            assert!(
                matches!(err, Error::NotFinite { index, .. } if index == n - 1),
                "{err}"
            );
            x[0] = f32::NEG_INFINITY;
            let err = check_finite("x", &x).unwrap_err();
            assert!(matches!(err, Error::NotFinite { index: 0, .. }), "{err}");
        }
    }
}
