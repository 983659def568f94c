//! Query plans: a plan is a graph of operators, and the engine learns which setting made plans like it faster.
//!
//! The graph is that of [`crate::attention::dag`]; the mechanisms there say which operators count in a plan's vector.

mod anchor;
mod choice;
mod encode;
mod engine;
mod hyper;
mod kernel;
mod ledger;
mod mechanism;
mod operators;
mod plan;
mod posterior;
mod settings;
mod triangle;

#[cfg(test)]
mod tests;

pub use choice::Choice;
pub use engine::{DagConfig, DagEngine, Enhanced, Learned, Run};
pub use mechanism::Mechanism;
pub use plan::{Node, OPERATORS, Operator, QueryDag};
