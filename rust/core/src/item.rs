//! Item ids as applications have them: numbers, strings, bytes or tuples of those.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Identifier of a document, tool or product. Cheap to clone, ordered, serialisable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ItemId {
    /// Any integer that fits 64 bits.
    Int(i64),
    /// Text.
    Str(Arc<str>),
    /// Raw bytes.
    Bytes(Arc<[u8]>),
    /// Composite key.
    Tuple(Arc<[ItemId]>),
    /// An id that lives only in this process (the binding's handle of any other hashable object); never serialised.
    #[serde(skip)]
    Opaque(u64),
}

impl ItemId {
    /// True if the id, or a part of it, lives only in this process.
    #[must_use]
    pub fn is_opaque(&self) -> bool {
        match self {
            Self::Opaque(_) => true,
            Self::Tuple(parts) => parts.iter().any(Self::is_opaque),
            _ => false,
        }
    }
}

impl From<i64> for ItemId {
    fn from(v: i64) -> Self {
        Self::Int(v)
    }
}

impl From<&str> for ItemId {
    fn from(v: &str) -> Self {
        Self::Str(v.into())
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(v) => write!(f, "{v}"),
            Self::Str(v) => write!(f, "{v:?}"),
            Self::Bytes(v) => write!(f, "bytes({})", v.len()),
            Self::Tuple(v) => {
                f.write_str("(")?;
                for (i, x) in v.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{x}")?;
                }
                f.write_str(")")
            }
            Self::Opaque(v) => write!(f, "object #{v}"),
        }
    }
}
