//! Item vectors as the application passes them, kept once each and addressed by content.

use crate::item::ItemId;
use crate::kernels;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One item with the vector that came with it. Immutable: a changed vector is another `Item`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// First eight bytes of BLAKE3 over id and vector.
    pub hash: u64,
    /// The application's id.
    pub id: ItemId,
    /// The vector as it came (any norm).
    pub vector: Box<[f32]>,
    /// 1/‖vector‖, 0 for a zero vector.
    pub inv_norm: f32,
}

impl Item {
    /// Builds and addresses an item.
    #[must_use]
    pub fn new(id: ItemId, vector: &[f32]) -> Self {
        let mut h = blake3::Hasher::new();
        hash_id(&id, &mut h);
        for v in vector {
            h.update(&v.to_le_bytes());
        }
        let mut first = [0u8; 8];
        first.copy_from_slice(&h.finalize().as_bytes()[..8]);
        let norm = kernels::norm(vector);
        let inv_norm = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        Self {
            hash: u64::from_le_bytes(first),
            id,
            vector: vector.into(),
            inv_norm,
        }
    }

    /// Bytes this item holds.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        std::mem::size_of::<Self>() + self.vector.len() * 4 + 32
    }
}

fn hash_id(id: &ItemId, h: &mut blake3::Hasher) {
    match id {
        ItemId::Int(v) => h.update(b"i").update(&v.to_le_bytes()),
        ItemId::Str(v) => h
            .update(b"s")
            .update(&(v.len() as u64).to_le_bytes())
            .update(v.as_bytes()),
        ItemId::Bytes(v) => h.update(b"b").update(&(v.len() as u64).to_le_bytes()).update(v),
        ItemId::Tuple(v) => {
            h.update(b"t").update(&(v.len() as u64).to_le_bytes());
            v.iter().for_each(|x| hash_id(x, h));
            h
        }
        ItemId::Opaque(v) => h.update(b"o").update(&v.to_le_bytes()),
    };
}

/// A borrowed id: lookups on the hot path allocate nothing.
#[derive(Debug, Clone, Copy)]
pub enum IdRef<'a> {
    /// Integer id.
    Int(i64),
    /// Text id.
    Str(&'a str),
    /// Any other id, already built.
    Other(&'a ItemId),
}

impl IdRef<'_> {
    /// The owned id.
    #[must_use]
    pub fn owned(self) -> ItemId {
        match self {
            Self::Int(v) => ItemId::Int(v),
            Self::Str(v) => ItemId::Str(v.into()),
            Self::Other(v) => v.clone(),
        }
    }
}

/// The latest vector of each item of one scope.
#[derive(Debug, Default)]
pub struct ItemTable {
    by_int: FxHashMap<i64, Arc<Item>>,
    by_str: FxHashMap<Arc<str>, Arc<Item>>,
    by_other: FxHashMap<ItemId, Arc<Item>>,
    by_hash: FxHashMap<u64, (u64, Arc<Item>)>,
    /// Content address by arrival.
    order: BTreeMap<u64, u64>,
    arrivals: u64,
    nbytes: usize,
    evicted: u64,
}

impl ItemTable {
    /// The item now known under `id`.
    #[must_use]
    pub fn get(&self, id: IdRef<'_>) -> Option<&Arc<Item>> {
        match id {
            IdRef::Int(v) => self.by_int.get(&v),
            IdRef::Str(v) => self.by_str.get(v),
            IdRef::Other(ItemId::Int(v)) => self.by_int.get(v),
            IdRef::Other(ItemId::Str(v)) => self.by_str.get(v),
            IdRef::Other(v) => self.by_other.get(v),
        }
    }

    /// The item with this content address, current or former.
    #[must_use]
    pub fn by_hash(&self, hash: u64) -> Option<&Arc<Item>> {
        self.by_hash.get(&hash).map(|(_, item)| item)
    }

    /// Makes `item` the current one under its id, and the last to be evicted; returns false if the very same content was known.
    pub fn insert(&mut self, item: Arc<Item>) -> bool {
        let arrival = self.arrivals;
        self.arrivals += 1;
        let before = self.by_hash.insert(item.hash, (arrival, item.clone()));
        match &before {
            Some((earlier, _)) => drop(self.order.remove(earlier)),
            None => self.nbytes += item.nbytes(),
        }
        self.order.insert(arrival, item.hash);
        match &item.id {
            ItemId::Int(v) => self.by_int.insert(*v, item),
            ItemId::Str(v) => self.by_str.insert(v.clone(), item),
            other => self.by_other.insert(other.clone(), item),
        };
        before.is_none()
    }

    /// Drops the contents that came first until at most `budget` bytes are held.
    pub fn evict_to(&mut self, budget: usize) {
        while self.nbytes > budget {
            let oldest = self.order.pop_first().and_then(|(_, h)| self.by_hash.remove(&h));
            let Some((_, item)) = oldest else { break };
            self.nbytes -= item.nbytes();
            self.evicted += 1;
            let current = |known: Option<&Arc<Item>>| known.is_some_and(|k| k.hash == item.hash);
            match &item.id {
                ItemId::Int(v) if current(self.by_int.get(v)) => drop(self.by_int.remove(v)),
                ItemId::Str(v) if current(self.by_str.get(v)) => drop(self.by_str.remove(v)),
                other if current(self.by_other.get(other)) => drop(self.by_other.remove(other)),
                _ => {}
            }
        }
    }

    /// Drops the contents that `keep` refuses.
    pub fn retain(&mut self, keep: impl Fn(&Item) -> bool) {
        self.by_hash.retain(|_, (_, i)| keep(i));
        self.order.retain(|_, h| self.by_hash.contains_key(h));
        self.by_int.retain(|_, i| keep(i));
        self.by_str.retain(|_, i| keep(i));
        self.by_other.retain(|_, i| keep(i));
        self.nbytes = self.by_hash.values().map(|(_, i)| i.nbytes()).sum();
    }

    /// All contents, in the order they came.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.order.values().filter_map(|h| self.by_hash(*h))
    }

    /// Contents dropped for the budget.
    #[must_use]
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Number of distinct contents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_hash.len()
    }

    /// True if no item was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_hash.is_empty()
    }

    /// Bytes of all item vectors.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_addresses_tell_ids_and_vectors_apart() {
        let a = Item::new(ItemId::Int(1), &[1.0, 0.0]);
        assert_eq!(a.hash, Item::new(ItemId::Int(1), &[1.0, 0.0]).hash);
        assert_ne!(a.hash, Item::new(ItemId::Int(2), &[1.0, 0.0]).hash);
        assert_ne!(a.hash, Item::new(ItemId::Int(1), &[1.0, 0.1]).hash);
        assert_ne!(a.hash, Item::new("1".into(), &[1.0, 0.0]).hash);
    }

    #[test]
    fn table_keeps_former_contents_under_their_hash() {
        let mut t = ItemTable::default();
        let old = Arc::new(Item::new("a".into(), &[1.0]));
        let new = Arc::new(Item::new("a".into(), &[2.0]));
        assert!(t.insert(old.clone()));
        assert!(t.insert(new.clone()));
        assert!(!t.insert(new.clone()));
        assert_eq!(t.get(IdRef::Str("a")), Some(&new));
        assert_eq!(t.by_hash(old.hash), Some(&old));
        assert_eq!(t.len(), 2);
        t.evict_to(new.nbytes());
        assert_eq!((t.len(), t.evicted()), (1, 1));
        assert_eq!(t.get(IdRef::Str("a")), Some(&new));
        t.evict_to(0);
        assert!(t.is_empty() && t.get(IdRef::Str("a")).is_none() && t.nbytes() == 0);
    }
}
