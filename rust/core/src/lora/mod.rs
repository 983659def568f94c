//! Low-rank adapters and their optimisers.
