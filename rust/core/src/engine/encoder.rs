//! Which encoder made the vectors: its name, and a few inputs with their vectors to recognise it by.

use super::Engine;
use super::event::Event;
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Cosine from which on two vectors of one input come from one encoder: quantised kernels differ between processors.
const SAME: f32 = 0.995;
const MOST: usize = 64;
const LONGEST: usize = 4096;

/// Name of an encoder, and canaries: inputs with the vectors that it makes of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Encoder {
    /// Name and version.
    pub name: String,
    /// Inputs and vectors.
    pub canaries: Vec<(String, Vec<f32>)>,
}

impl Encoder {
    /// Errors unless names, numbers and lengths are acceptable.
    pub fn check(&self, dim: usize) -> Result<()> {
        let long = self.canaries.iter().any(|(text, _)| text.len() > LONGEST);
        if self.name.is_empty() || self.name.len() > LONGEST || long || self.canaries.len() > MOST {
            return Err(Error::value(
                "encoder",
                format!("a name, and at most {MOST} canaries of at most {LONGEST} bytes"),
                format!(
                    "name of {} bytes, {} canaries",
                    self.name.len(),
                    self.canaries.len()
                ),
            ));
        }
        for (_, vector) in &self.canaries {
            check_dim("canaries", dim, vector.len())?;
            check_finite("canaries", vector)?;
        }
        Ok(())
    }

    /// Errors unless `other` makes the vectors that this one made.
    pub fn check_same(&self, other: &Self) -> Result<()> {
        let refuse = |expected: String, got: String| {
            let way_out =
                "open the state with that encoder, or begin a new one: what was learned is about its vectors";
            Err(Error::config("encoder", expected, format!("{got}; {way_out}")))
        };
        if self.name != other.name {
            return refuse(
                format!("the encoder that made this state ({:?})", self.name),
                format!("{:?}", other.name),
            );
        }
        for (text, vector) in &other.canaries {
            let Some((_, known)) = self.canaries.iter().find(|(t, _)| t == text) else {
                continue;
            };
            let norms = kernels::norm(known) * kernels::norm(vector);
            let both_zero = kernels::norm(known) + kernels::norm(vector) == 0.0;
            let cosine = if norms > 0.0 {
                kernels::dot(known, vector) / norms
            } else {
                0.0
            };
            if !both_zero && (cosine.is_nan() || cosine < SAME) {
                let shown: String = text.chars().take(40).collect();
                return refuse(
                    format!("the vectors that {:?} made before", self.name),
                    format!("a vector of cosine {cosine:.3} to the one before for canary {shown:?}"),
                );
            }
        }
        Ok(())
    }
}

impl Engine {
    /// Notes at the first call which encoder the vectors come from; refuses another one ever after.
    pub fn set_encoder(&self, encoder: Encoder) -> Result<()> {
        encoder.check(self.config.dim)?;
        let _guard = self.enter()?;
        self.take_in()?;
        let mut known = self.encoder.lock();
        if let Some(known) = &*known {
            return known.check_same(&encoder);
        }
        let encoder = Arc::new(encoder);
        self.written(self.journal.lock().append(Event::Encoder(encoder.clone())))?;
        *known = Some(encoder);
        Ok(())
    }

    /// The encoder, if one was named.
    #[must_use]
    pub fn encoder(&self) -> Option<Arc<Encoder>> {
        self.encoder.lock().clone()
    }
}
