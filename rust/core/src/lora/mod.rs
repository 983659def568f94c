//! Adapters: the fast low-rank one, the slow layered one, optimisers, merging, pools, quantisation and exchange files.

mod aware;
mod base;
mod base_config;
mod base_train;
mod contrastive;
mod factors;
mod micro;
mod micro_config;
mod optim;
pub mod peft;
mod pending;
mod pool;
pub mod quant;
mod quantized;
mod shared;
mod svd;
mod trust;

pub use aware::QuantAware;
pub use base::BaseLora;
pub use base_config::BaseConfig;
pub use base_train::Batch;
pub use factors::Factors;
pub use micro::MicroLora;
pub use micro_config::{ApplyReport, MicroConfig};
pub use optim::{Optimizer, Rule, clip_by_norm};
pub use pool::{AdapterPool, Grouped, Merge, PoolConfig};
pub use quantized::QuantizedMicroLora;
pub use shared::{SharedBaseLora, SharedMicroLora};
pub use svd::{Merged, merge_products};
