//! What an index is made of: dimension, metric, precision and structure.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Largest supported dimension: a dot product of two int8 rows must fit 32 bits.
pub const MAX_DIM: usize = 65_536;

/// How two vectors are compared. Larger scores are better under each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Metric {
    /// Cosine of the angle; a zero vector scores 0 against everything.
    Cosine,
    /// Inner product.
    Dot,
    /// Minus the squared euclidean distance.
    Euclidean,
}

/// What the scan or the graph reads; results are always rescored in float32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Precision {
    /// float32 rows.
    Float32,
    /// One signed byte per coordinate and one scale per row, beside the float32 rows.
    Int8,
}

/// Structure behind the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Flat while small, a graph from the measured size on.
    Auto,
    /// Exact scan of every row.
    Flat,
    /// Hierarchical navigable small-world graph.
    Hnsw,
}

/// Parameters of a [`VectorIndex`](super::VectorIndex).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Params {
    /// Length of every vector, 1 to [`MAX_DIM`].
    pub dim: usize,
    /// Comparison.
    pub metric: Metric,
    /// What the search reads.
    pub precision: Precision,
    /// Structure asked for.
    pub kind: Kind,
    /// Seed of the graph's levels.
    pub seed: u64,
}

impl Params {
    /// Cosine, float32, structure chosen by size, seed 0.
    #[must_use]
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            metric: Metric::Cosine,
            precision: Precision::Float32,
            kind: Kind::Auto,
            seed: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.dim == 0 || self.dim > MAX_DIM {
            return Err(Error::config("dim", format!("1 to {MAX_DIM}"), self.dim));
        }
        Ok(())
    }
}

macro_rules! named {
    ($ty:ty, $argument:literal, $($variant:ident = $name:literal),+) => {
        impl $ty {
            /// The value with this public name.
            pub fn parse(name: &str) -> Result<Self> {
                match name {
                    $($name => Ok(Self::$variant),)+
                    other => Err(Error::config($argument, [$(concat!("\"", $name, "\"")),+].join(" or "), format!("{other:?}"))),
                }
            }
        }

        impl fmt::Display for $ty {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $name),+ })
            }
        }
    };
}

named!(
    Metric,
    "metric",
    Cosine = "cosine",
    Dot = "dot",
    Euclidean = "euclidean"
);
named!(Precision, "dtype", Float32 = "float32", Int8 = "int8");
named!(Kind, "kind", Auto = "auto", Flat = "flat", Hnsw = "hnsw");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_refused() {
        for kind in [Kind::Auto, Kind::Flat, Kind::Hnsw] {
            assert_eq!(Kind::parse(&kind.to_string()).unwrap(), kind);
        }
        for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
            assert_eq!(Metric::parse(&metric.to_string()).unwrap(), metric);
        }
        let err = Precision::parse("float64").unwrap_err().to_string();
        assert_eq!(err, "dtype: expected \"float32\" or \"int8\", got \"float64\"");
        for dim in [0, MAX_DIM + 1] {
            assert!(Params::new(dim).validate().is_err());
        }
    }
}
