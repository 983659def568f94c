//! Attention mechanisms on dense arrays, graphs and DAGs, in `f32` and `f64`.
//!
//! Softmax attention of every kind runs through one tile driver, [`tile`]: what differs between mechanisms is only which
//! keys a query sees and what is added to its logits ([`tile::Rule`]).

pub mod ball;
mod cuts;
pub mod dag;
pub mod experts;
pub mod graph;
pub mod heads;
pub mod heads_vjp;
pub mod hypervector;
mod kept;
pub mod linear;
mod linear_tiles;
pub mod local;
pub mod parted;
pub mod rules;
pub mod scan;
#[cfg(test)]
mod tests;
pub mod threads;
pub mod tile;
mod tile_split;
pub mod tile_vjp;
pub mod whole;
pub mod winners;
