//! Adapters for many threads: readers never wait for the writer.

use super::base::BaseLora;
use super::factors::Factors;
use super::micro::MicroLora;
use super::micro_config::ApplyReport;
use crate::error::Result;
use arc_swap::ArcSwap;
use parking_lot::{Mutex, MutexGuard};
use std::sync::{Arc, Weak};

/// Adapters that were spilled and have changed since, by id.
pub(super) type Returned = Mutex<Vec<(u64, Arc<SharedMicroLora>)>>;

/// Where an adapter that left memory goes when somebody who still uses it changes it.
#[derive(Debug)]
pub(super) struct Recall {
    id: u64,
    adapter: Weak<SharedMicroLora>,
    /// Gone with the pool.
    list: Weak<Returned>,
}

impl Recall {
    pub(super) fn new(id: u64, adapter: &Arc<SharedMicroLora>, list: &Arc<Returned>) -> Self {
        Self {
            id,
            adapter: Arc::downgrade(adapter),
            list: Arc::downgrade(list),
        }
    }
}

/// A [`MicroLora`] behind a mutex, with its factors published for lock-free reading.
#[derive(Debug)]
pub struct SharedMicroLora {
    live: ArcSwap<Factors>,
    state: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    lora: MicroLora,
    /// The snapshot before the last one, overwritten by the next publication if no reader holds it any more.
    spare: Option<Arc<Factors>>,
    /// Set while the adapter is out of its pool's memory.
    recall: Option<Recall>,
}

impl SharedMicroLora {
    /// Shares `lora`.
    #[must_use]
    pub fn new(lora: MicroLora) -> Self {
        Self {
            live: ArcSwap::from_pointee(lora.factors().clone()),
            state: Mutex::new(Writer {
                lora,
                spare: None,
                recall: None,
            }),
        }
    }

    /// The published factors; never waits.
    #[inline]
    pub fn factors(&self) -> arc_swap::Guard<Arc<Factors>> {
        self.live.load()
    }

    /// The published factors, to be kept.
    pub fn snapshot(&self) -> Arc<Factors> {
        self.live.load_full()
    }

    /// The state, to be changed; the pool that has spilled this adapter hears of it.
    #[inline]
    fn change(&self) -> MutexGuard<'_, Writer> {
        let mut writer = self.state.lock();
        if let Some(recall) = writer.recall.take() {
            if let (Some(adapter), Some(list)) = (recall.adapter.upgrade(), recall.list.upgrade()) {
                list.lock().push((recall.id, adapter));
            }
        }
        writer
    }

    /// The state as the pool writes it to disk; the first change after it goes back to the pool.
    pub(super) fn leave(&self, recall: Recall) -> Result<Vec<u8>> {
        let mut writer = self.state.lock();
        let bytes = writer.lora.to_bytes()?;
        writer.recall = Some(recall);
        Ok(bytes)
    }

    /// Back in its pool's memory.
    pub(super) fn stay(&self) {
        self.state.lock().recall = None;
    }

    fn publish(&self, mut writer: MutexGuard<'_, Writer>) {
        let Writer { lora, spare, .. } = &mut *writer;
        let next = match spare.take() {
            Some(mut old) => match Arc::get_mut(&mut old) {
                Some(factors) => {
                    factors.copy_from(lora.factors());
                    old
                }
                None => Arc::new(lora.factors().clone()),
            },
            None => Arc::new(lora.factors().clone()),
        };
        *spare = Some(self.live.swap(next));
    }

    /// Reads the whole state.
    pub fn read<T>(&self, f: impl FnOnce(&MicroLora) -> T) -> T {
        f(&self.state.lock().lora)
    }

    /// Changes the state and publishes the factors.
    pub fn write<T>(&self, f: impl FnOnce(&mut MicroLora) -> Result<T>) -> Result<T> {
        let mut writer = self.change();
        let out = f(&mut writer.lora)?;
        self.publish(writer);
        Ok(out)
    }

    /// [`MicroLora::accumulate_parts`]; the factors do not change, so nothing is published.
    pub fn accumulate_parts(&self, x: &[f32], ascent: &[f32], weight: f64) -> Result<bool> {
        self.change().lora.accumulate_parts(x, ascent, weight)
    }

    /// [`MicroLora::learn_parts`].
    pub fn learn_parts(
        &self,
        x: &[f32],
        ascent: &[f32],
        weight: f64,
        learning_rate: Option<f64>,
    ) -> Result<ApplyReport> {
        let mut writer = self.change();
        let report = writer.lora.learn_parts(x, ascent, weight, learning_rate)?;
        if report.applied {
            self.publish(writer);
        }
        Ok(report)
    }

    /// [`MicroLora::reset`].
    pub fn discard(&self) {
        self.change().lora.reset();
    }

    /// [`MicroLora::apply`].
    pub fn apply(&self, learning_rate: Option<f64>) -> Result<ApplyReport> {
        let mut writer = self.change();
        let report = writer.lora.apply(learning_rate)?;
        if report.applied {
            self.publish(writer);
        }
        Ok(report)
    }
}

/// A [`BaseLora`] behind a mutex, with the factors of each layer published for lock-free reading.
#[derive(Debug)]
pub struct SharedBaseLora {
    live: Vec<ArcSwap<Factors>>,
    state: Mutex<BaseLora>,
}

impl SharedBaseLora {
    /// Shares `lora`.
    pub fn new(lora: BaseLora) -> Result<Self> {
        let live = (0..lora.config().num_layers)
            .map(|i| Ok(ArcSwap::from_pointee(lora.factors(i)?.clone())))
            .collect::<Result<_>>()?;
        Ok(Self {
            live,
            state: Mutex::new(lora),
        })
    }

    /// Number of layers.
    #[must_use]
    pub fn num_layers(&self) -> usize {
        self.live.len()
    }

    /// The published factors of a layer, to be kept; `None` if there is no such layer. Never waits.
    #[must_use]
    pub fn snapshot(&self, layer: usize) -> Option<Arc<Factors>> {
        self.live.get(layer).map(ArcSwap::load_full)
    }

    /// Reads the whole state.
    pub fn read<T>(&self, f: impl FnOnce(&BaseLora) -> T) -> T {
        f(&self.state.lock())
    }

    /// Changes the state and publishes every layer whose factors are different now.
    pub fn write<T>(&self, f: impl FnOnce(&mut BaseLora) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        let out = f(&mut state)?;
        for (i, live) in self.live.iter().enumerate() {
            let now = state.factors(i)?;
            if **live.load() != *now {
                live.store(Arc::new(now.clone()));
            }
        }
        Ok(out)
    }
}
