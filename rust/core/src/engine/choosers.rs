//! Who chose what: an item's recall counts only once enough different users chose the item, so that one account cannot push
//! it.

use crate::item::ItemId;
use crate::patterns::cases::{Candidates, Scored};
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

type Users = imbl::GenericHashMap<ItemId, Arc<[u64]>, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// Digests of the first users of each item, up to the number that is needed. Empty while one is enough.
#[derive(Debug, Clone)]
pub struct Choosers {
    needed: usize,
    users: Users,
}

/// The stored form, by item.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChoosersImage(Vec<(ItemId, Vec<u64>)>);

impl Choosers {
    /// `needed` distinct users make an item's recall count; those without a name count as one.
    #[must_use]
    pub fn new(needed: usize) -> Self {
        Self {
            needed,
            users: Users::default(),
        }
    }

    /// Notes that `user` chose the items.
    pub fn add(&mut self, items: &[ItemId], user: &str) {
        if !self.matter() {
            return;
        }
        let mut first = [0; 8];
        first.copy_from_slice(&blake3::hash(user.as_bytes()).as_bytes()[..8]);
        let digest = u64::from_le_bytes(first);
        for item in items {
            let known = self.users.get(item).map_or(&[][..], |u| u);
            if known.len() < self.needed && !known.contains(&digest) {
                let more: Arc<[u64]> = known.iter().copied().chain([digest]).collect();
                self.users.insert(item.clone(), more);
            }
        }
    }

    /// False while one user is enough for everything.
    #[must_use]
    pub fn matter(&self) -> bool {
        self.needed > 1
    }

    fn enough(&self, item: &ItemId) -> bool {
        self.users.get(item).is_some_and(|u| u.len() >= self.needed)
    }

    /// Takes the recall of items that too few chose out of the scores.
    pub fn withhold(&self, candidates: &Candidates<'_>, weight: f32, scored: &mut Scored) {
        if !self.matter() {
            return;
        }
        for (i, id) in candidates.ids().iter().enumerate() {
            if scored.recall[i] != 0.0 && !self.enough(id) {
                scored.withhold_recall(i, weight);
            }
        }
    }

    /// For saving: by item, so that equal states have equal bytes.
    #[must_use]
    pub fn image(&self) -> ChoosersImage {
        let mut all: Vec<_> = self.users.iter().map(|(i, u)| (i.clone(), u.to_vec())).collect();
        all.sort();
        ChoosersImage(all)
    }

    /// From the saved form.
    #[must_use]
    pub fn restored(needed: usize, image: ChoosersImage) -> Self {
        Self {
            needed,
            users: image.0.into_iter().map(|(i, u)| (i, u.into())).collect(),
        }
    }
}
