//! An e-prop layer as bytes.

use super::{Eprop, Feedback};
use crate::codec::{self, Kind};
use crate::error::{Error, Result};

const KIND: Kind = Kind {
    tag: *b"EPRP",
    version: 1,
};

impl Eprop {
    /// The whole state; what follows is what would have followed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = |reason: String| Err(Error::corrupt("EpropLayer state", reason));
        let this: Self = codec::decode(KIND, bytes)?;
        let p = &this.params;
        if let Err(e) = p.check() {
            return wrong(e.to_string());
        }
        let f = &this.flow;
        let adaptive = p.adaptation > 0.0;
        let broadcast = match p.feedback {
            Feedback::Symmetric => 0,
            Feedback::Random => p.n_out * p.n_rec,
        };
        let sizes = this.input.sized(p.n_rec * p.n_in, adaptive)
            && this.recurrent.sized(p.n_rec * p.n_rec, adaptive)
            && this.out.len() == p.n_out * p.n_rec
            && this.out_gradient.len() == this.out.len()
            && this.broadcast.len() == broadcast
            && [
                f.v.len(),
                f.z.len(),
                f.threshold_rise.len(),
                f.trace_rec.len(),
                f.filtered_z.len(),
            ]
            .iter()
            .all(|n| *n == p.n_rec)
            && f.trace_in.len() == p.n_in
            && f.y.len() == p.n_out;
        if !sizes {
            return wrong("sizes that do not agree".into());
        }
        let mut singles = vec![&this.out, &this.out_gradient, &this.broadcast];
        singles.extend(this.input.parts());
        singles.extend(this.recurrent.parts());
        let doubles = [
            &f.v,
            &f.threshold_rise,
            &f.y,
            &f.trace_in,
            &f.trace_rec,
            &f.filtered_z,
        ];
        let finite = singles.iter().all(|x| crate::kernels::all_finite(x))
            && doubles.iter().all(|x| x.iter().all(|v| v.is_finite()));
        if !finite {
            return wrong("a value that is not finite".into());
        }
        Ok(this)
    }
}
