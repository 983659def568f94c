//! Algorithms of sona, without Python: kernels, trajectories, adapters, patterns, durable state and the engine.
//!
//! Dependencies run one way: `kernels` ← algorithms ← `engine`. The binding crate adds conversions and nothing else.

#![deny(unsafe_code)]

pub mod attention;
mod checksum;
pub mod codec;
pub mod continual;
pub mod control;
pub mod dag;
pub mod dreams;
pub mod engine;
pub mod error;
pub mod item;
#[allow(unsafe_code, reason = "vector instructions and table dispatch")]
pub mod kernels;
pub mod lora;
pub mod metrics;
pub mod patterns;
pub mod plasticity;
pub mod rng;
pub mod routing;
pub mod store;
pub mod trajectory;

pub use error::{Error, Result};
