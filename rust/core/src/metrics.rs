//! Counters and gauges that every stateful object reports.

/// One value of [`Metrics`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Metric {
    /// A count or a size.
    Int(u64),
    /// A measured quantity.
    Float(f64),
}

impl From<u64> for Metric {
    fn from(v: u64) -> Self {
        Self::Int(v)
    }
}

impl From<usize> for Metric {
    fn from(v: usize) -> Self {
        Self::Int(v as u64)
    }
}

impl From<f64> for Metric {
    fn from(v: f64) -> Self {
        Self::Float(v)
    }
}

/// Name and value, in a fixed order.
pub type Metrics = Vec<(&'static str, Metric)>;
