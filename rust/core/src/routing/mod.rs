//! The cheapest model that is good enough: predictors, decision, budgets, guarantees.

mod budget;
mod calibration;
mod cases;
mod estimate;
mod explore;
mod fastgrnn;
mod fastgrnn_rows;
mod fastgrnn_train;
mod features;
mod growth;
mod guard;
mod history;
mod knn;
mod learner;
mod linear;
mod linucb;
mod logistic;
mod near;
mod outcomes;
mod plan;
mod route;
mod router;
mod state;
#[cfg(test)]
mod tests;
mod turns;
mod wins;

pub use budget::{BudgetPacer, Unit};
pub use calibration::{interpolate, isotonic};
pub use estimate::Estimate;
pub use fastgrnn::FastGrnn;
pub use fastgrnn_rows::RowScorer;
pub use fastgrnn_train::FitOptions;
pub use guard::{risk_threshold, upper_quantile};
pub use history::History;
pub use knn::KnnRouter;
pub use learner::Kind;
pub use linucb::LinUcb;
pub use plan::{Choice, Reason};
pub use router::{Router, Settings, SharedPacer};
pub use turns::MAX_TURNS;
