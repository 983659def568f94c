//! The engine: scopes, snapshots, decisions, feedback, journal.
