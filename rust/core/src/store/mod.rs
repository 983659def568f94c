//! Durable state: event log, snapshots, embedded database, tensor files, preference data.
//!
//! What each part promises, and what a killed process or a power cut can lose, is written in
//! `docs/explanation/durability.md`.

pub mod atomic;
pub mod embedded;
pub mod event_log;
pub mod preferences;
pub mod reader;
mod record;
pub mod snapshot;
pub mod tensors;
mod whole;
mod writer;

pub use embedded::EmbeddedStore;
pub use event_log::{EventLog, Fsync};
pub use preferences::Preference;
pub use reader::{EventLogReader, Replay};
pub use record::MAX_PAYLOAD;
pub use snapshot::SnapshotStore;
pub use tensors::Tensor;
pub use whole::read_whole;
