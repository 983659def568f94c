//! Durable state: event log, snapshots, embedded database.
