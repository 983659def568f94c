//! Taking events out for good.

use super::{Backend, Journal, Sourced, log_path, workers};
use crate::engine::event::Stamped;
use crate::error::{Error, Result};
use crate::store::EventLog;
use std::collections::VecDeque;
use std::io::ErrorKind;

impl Journal {
    /// Rewrites every log that no other living process holds, without the events that `keep` refuses. Returns the number of
    /// dropped events and the writers that are still alive and must do the same.
    pub fn rewrite(&mut self, mut keep: impl FnMut(&Sourced) -> bool) -> Result<(u64, Vec<u32>)> {
        let own = self.worker;
        let mut dropped_events = 0;
        let mut alive = Vec::new();
        match &mut self.backend {
            Backend::Memory { records, nbytes, .. } => {
                let mut kept = VecDeque::with_capacity(records.len());
                for (seq, bytes) in records.drain(..) {
                    let stamped = Stamped::decode(&bytes)?;
                    if keep(&Sourced {
                        worker: own,
                        seq,
                        stamped,
                    }) {
                        kept.push_back((seq, bytes));
                    } else {
                        *nbytes -= bytes.len();
                        dropped_events += 1;
                    }
                }
                *records = kept;
            }
            Backend::Directory(dir) => {
                let events = dir.root.join("events");
                let mut rewrite = |log: &EventLog, worker| {
                    // A dropped event leaves an empty record, so that numbers (and the decision ids made of them) stay unique.
                    log.rewrite(|seq, bytes| {
                        let stamped = Stamped::decode(bytes)?;
                        Ok(keep(&Sourced { worker, seq, stamped }))
                    })
                };
                for worker in workers(&events)? {
                    if worker == own {
                        dropped_events += rewrite(&dir.log, worker)?;
                        continue;
                    }
                    match EventLog::open(log_path(&events, worker), dir.fsync) {
                        Ok(log) => {
                            dropped_events += rewrite(&log, worker)?;
                            log.close()?;
                        }
                        Err(Error::Store { source, .. }) if source.kind() == ErrorKind::WouldBlock => {
                            alive.push(worker);
                        }
                        Err(e) => return Err(e),
                    }
                }
                dir.others.clear();
            }
        }
        Ok((dropped_events, alive))
    }
}
