//! A query engine in figures and as bytes.

use super::{DagEngine, PENDING};
use crate::codec::{self, Kind};
use crate::dag::mechanism::Mechanism;
use crate::error::{Error, Result, check_dim};
use crate::metrics::Metrics;

const KIND: Kind = Kind {
    tag: *b"DAGE",
    version: 1,
};

impl DagEngine {
    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        let share = if self.ledger.reference > 0.0 {
            self.ledger.lost / self.ledger.reference
        } else {
            0.0
        };
        vec![
            ("pre_queries", c.pre.into()),
            ("post_queries", c.post.into()),
            ("unmatched", c.unmatched.into()),
            ("cycles", c.cycles.into()),
            ("waiting_runs", self.fresh.into()),
            ("settings", self.settings.len().into()),
            ("setting_runs", self.by_setting.runs().into()),
            ("setting_pairs", self.by_setting.cell_count().into()),
            ("forgotten_pairs", self.by_setting.forgotten().into()),
            ("runs_away_from_default", self.ledger.away.into()),
            ("default_ms", self.ledger.reference.into()),
            ("lost_ms", self.ledger.lost.into()),
            ("lost_share", share.into()),
            ("timed_operators", self.operators.seen().into()),
            ("operator_samples", self.operators.sample_count().into()),
            ("patterns", self.bank.patterns().len().into()),
        ]
    }

    /// Serialises everything.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote; going on from there equals never having stopped, bit for bit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut this: Self = codec::decode(KIND, bytes)?;
        this.validate()
            .map_err(|e| Error::corrupt("DagEngine state", e))?;
        this.bank = this.bank.restored()?;
        Ok(this)
    }

    fn validate(&self) -> Result<()> {
        self.config.validate()?;
        self.settings.validate()?;
        let d = self.config.dim;
        self.by_setting.validate(d, self.settings.len())?;
        self.by_mechanism.validate(d, Mechanism::ALL.len())?;
        self.ledger.validate()?;
        self.operators.validate(d, self.config.rank)?;
        check_dim("bank", d, self.bank.config().embedding_dim)?;
        let known = |s: u32| (s as usize) < self.settings.len();
        let pending = |m: &u8| usize::from(*m) < Mechanism::ALL.len();
        if self.default.is_none_or(known)
            && self.pending.len() <= PENDING
            && self.pending.values().all(|(m, _)| pending(m))
        {
            Ok(())
        } else {
            Err(Error::corrupt("engine", "a number without a name"))
        }
    }
}
