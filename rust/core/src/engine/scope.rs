//! One tenant's share of the engine: what it learned, its items, its ledger. Scopes never see each other.

use super::config::EngineConfig;
use super::items::{IdRef, Item, ItemTable};
use super::learned::Learned;
use super::ledger::Ledger;
use crate::error::{Error, Result, check_dim, check_finite};
use arc_swap::ArcSwap;
use parking_lot::{Mutex, RwLock};
use std::sync::Arc;

/// Longest name of a scope, in bytes.
const MAX_NAME: usize = 256;

/// Live state of one scope. Readers load `live`; writers hold `ledger` while they build and publish the next state.
#[derive(Debug)]
pub struct Scope {
    /// Name as the application gave it.
    pub name: Arc<str>,
    /// What decisions read.
    pub live: ArcSwap<Learned>,
    /// Item vectors.
    pub items: RwLock<ItemTable>,
    /// Duplicates and caps; its lock is the scope's writer lock.
    pub ledger: Mutex<Ledger>,
}

impl Scope {
    /// An untrained scope.
    pub fn new(name: &str, config: &EngineConfig) -> Result<Self> {
        check_name(name)?;
        Ok(Self {
            name: name.into(),
            live: ArcSwap::from_pointee(Learned::new(config)?),
            items: RwLock::new(ItemTable::default()),
            ledger: Mutex::new(Ledger::default()),
        })
    }

    /// Items for `ids`, row i of `vectors` for id i; those that are new or changed since the last time are appended to
    /// `fresh`. With `vectors` `None` every id must be known.
    pub fn lookup(
        &self,
        ids: &[IdRef<'_>],
        vectors: Option<&[f32]>,
        dim: usize,
        fresh: &mut Vec<Arc<Item>>,
    ) -> Result<Vec<Arc<Item>>> {
        let table = self.items.read();
        let mut out = Vec::with_capacity(ids.len());
        match vectors {
            Some(vectors) => {
                for (id, row) in ids.iter().zip(vectors.chunks_exact(dim)) {
                    match table.get(*id) {
                        // Equal bytes were checked when they came first.
                        Some(item) if same_bits(&item.vector, row) => out.push(item.clone()),
                        _ => {
                            check_dim("vectors", dim, row.len())?;
                            check_finite("vectors", row)?;
                            let item = Arc::new(Item::new(id.owned(), row));
                            let item = match table.by_hash(item.hash) {
                                Some(known) => known.clone(),
                                None => item,
                            };
                            fresh.push(item.clone());
                            out.push(item);
                        }
                    }
                }
            }
            None => {
                for id in ids {
                    match table.get(*id) {
                        Some(item) => out.push(item.clone()),
                        None => {
                            let got = format!("{} without one", id.owned());
                            return Err(Error::value(
                                "vectors",
                                "a vector for every id that was not ranked before",
                                got,
                            ));
                        }
                    }
                }
            }
        }
        Ok(out)
    }
}

fn same_bits(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| x.to_bits() == y.to_bits())
}

/// Errors unless `name` can be a scope.
pub fn check_name(name: &str) -> Result<()> {
    let fail = |reason: &str| {
        Err(Error::Scope {
            scope: name.chars().take(40).collect(),
            reason: reason.into(),
        })
    };
    if name.is_empty() {
        return fail("the name is empty");
    }
    if name.len() > MAX_NAME {
        return fail("the name is longer than 256 bytes");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookup_finds_known_and_reports_changed() {
        let s = Scope::new("a", &EngineConfig::new(2)).unwrap();
        let mut fresh = Vec::new();
        let ids = [IdRef::Int(1), IdRef::Str("x")];
        let got = s
            .lookup(&ids, Some(&[1.0, 0.0, 0.0, 1.0]), 2, &mut fresh)
            .unwrap();
        assert_eq!((got.len(), fresh.len()), (2, 2));
        for item in fresh.drain(..) {
            s.items.write().insert(item);
        }
        s.lookup(&ids, Some(&[1.0, 0.0, 0.0, 1.0]), 2, &mut fresh)
            .unwrap();
        assert!(fresh.is_empty());
        s.lookup(&ids, Some(&[1.0, 0.0, 0.5, 1.0]), 2, &mut fresh)
            .unwrap();
        assert_eq!(fresh.len(), 1);
        assert_eq!(s.lookup(&ids, None, 2, &mut fresh).unwrap().len(), 2);
        assert!(s.lookup(&[IdRef::Int(9)], None, 2, &mut fresh).is_err());
        assert!(
            s.lookup(&[IdRef::Int(9)], Some(&[f32::NAN, 0.0]), 2, &mut fresh)
                .is_err()
        );
    }

    #[test]
    fn names_are_checked() {
        let c = EngineConfig::new(2);
        assert!(Scope::new("", &c).is_err());
        assert!(Scope::new(&"x".repeat(257), &c).is_err());
        assert!(Scope::new("../../etc", &c).is_ok(), "names are never paths");
    }
}
