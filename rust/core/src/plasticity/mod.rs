//! Learning from one example (BTSP) and on a stream in constant memory (e-prop).

mod associate;
mod cells;
mod eprop;
mod plateau;

pub use associate::BtspLayer;
pub use cells::BtspMemory;
pub use eprop::{Eprop, EpropParams, Feedback, Weights};
pub use plateau::{WeightChange, btsp_weight_change};
