//! All writers' events as one history.

use super::{Backend, Journal, POLL_BYTES, Positions, Sourced, log_path, workers};
use crate::engine::event::Stamped;
use crate::engine::tombstone::Tombstone;
use crate::error::Result;
use crate::store::{EventLogReader, Replay};
use std::collections::VecDeque;
use std::sync::Arc;

impl Journal {
    /// Every event of every writer from `from` on, merged by logical time, ties by writer.
    pub fn history(&self, from: &Positions) -> Result<History> {
        let mut sources = Vec::new();
        match &self.backend {
            Backend::Memory { records, .. } => {
                let start = from.get(&self.worker).copied().unwrap_or(0);
                let list: Vec<_> = records.iter().filter(|(seq, _)| *seq >= start).cloned().collect();
                sources.push(Source {
                    worker: self.worker,
                    input: Input::List(list.into_iter()),
                });
            }
            Backend::Directory(dir) => {
                for worker in workers(&dir.root.join("events"))? {
                    let start = from.get(&worker).copied().unwrap_or(0);
                    let input = if worker == self.worker {
                        Input::Own(Box::new(dir.log.replay(start)?))
                    } else {
                        let path = log_path(&dir.root.join("events"), worker);
                        Input::Other(Box::new(EventLogReader::open(path, start)?), VecDeque::new())
                    };
                    sources.push(Source { worker, input });
                }
            }
        }
        History::new(sources, self.tombstones.clone())
    }
}

/// The merged history of all writers, read as it is iterated.
#[derive(Debug)]
pub struct History {
    hidden: Vec<Arc<Tombstone>>,
    heads: Vec<(Source, Option<Sourced>)>,
}

#[derive(Debug)]
struct Source {
    worker: u32,
    input: Input,
}

#[derive(Debug)]
enum Input {
    List(std::vec::IntoIter<(u64, Vec<u8>)>),
    Own(Box<Replay>),
    Other(Box<EventLogReader>, VecDeque<(u64, Vec<u8>)>),
}

impl Source {
    fn next(&mut self) -> Result<Option<Sourced>> {
        loop {
            let record = match &mut self.input {
                Input::List(list) => list.next(),
                Input::Own(replay) => replay.next().transpose()?,
                Input::Other(reader, ready) => {
                    if ready.is_empty() {
                        ready.extend(reader.poll(POLL_BYTES)?);
                    }
                    ready.pop_front()
                }
            };
            match record {
                None => return Ok(None),
                Some((_, tombstone)) if tombstone.is_empty() => {}
                Some((seq, b)) => {
                    return Ok(Some(Sourced {
                        worker: self.worker,
                        seq,
                        stamped: Stamped::decode(&b)?,
                    }));
                }
            }
        }
    }
}

impl History {
    fn new(sources: Vec<Source>, hidden: Vec<Arc<Tombstone>>) -> Result<Self> {
        let mut heads = Vec::with_capacity(sources.len());
        for mut s in sources {
            let head = s.next()?;
            heads.push((s, head));
        }
        Ok(Self { hidden, heads })
    }
}

impl Iterator for History {
    type Item = Result<Sourced>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let next = self.merged()?;
            match &next {
                Ok(s) if self.hidden.iter().any(|t| t.hides(&s.stamped)) => {}
                _ => return Some(next),
            }
        }
    }
}

impl History {
    fn merged(&mut self) -> Option<Result<Sourced>> {
        let key = |h: &(Source, Option<Sourced>)| h.1.as_ref().map(|s| (s.stamped.lamport, s.worker));
        let best = (0..self.heads.len())
            .filter(|&i| self.heads[i].1.is_some())
            .min_by_key(|&i| key(&self.heads[i]))?;
        let (source, head) = &mut self.heads[best];
        let out = head.take()?;
        match source.next() {
            Ok(next) => *head = next,
            Err(e) => return Some(Err(e)),
        }
        Some(Ok(out))
    }
}
