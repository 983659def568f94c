//! What one request did and how it turned out: records, the bounded buffer between serving and learning, and the
//! signals that adapters learn from.

mod baseline;
mod buffer;
mod losses;
mod record;
mod signal;
mod state;

pub use baseline::RewardBaseline;
pub use buffer::{BufferStats, Policy, TrajectoryBuffer};
pub(crate) use losses::log_softmax_parts;
pub use losses::{ChoiceFeedback, RankingLoss, RelevanceLoss};
pub use record::{Trajectory, TrajectoryStep};
pub use signal::{LearningSignal, SignalKind};
pub use state::BufferState;
