//! The fast adapter in four or eight bits.

use super::factors::Factors;
use super::quant::{Axis, NF4_CODE, quantize_nf4, quantize_symmetric};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"QLRA",
    version: 1,
};

/// How weights are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scheme {
    /// Signed integers, one scale per row.
    Symmetric,
    /// Four-bit normal float, one scale per block.
    Nf4,
}

/// One matrix: codes (two to a byte where they have four bits) and scales.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Packed {
    codes: Vec<u8>,
    scales: Vec<f32>,
    /// Values per scale.
    group: usize,
}

/// Read-only [`Factors`] in few bits; forward decodes as it goes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantizedMicroLora {
    dim: usize,
    rank: usize,
    scale: f32,
    bits: u8,
    scheme: Scheme,
    a: Packed,
    b: Packed,
    identity: bool,
}

fn pack(codes: &[u8], bits: u8) -> Vec<u8> {
    if bits == 8 {
        return codes.to_vec();
    }
    codes
        .chunks(2)
        .map(|c| (c[0] & 15) | (c.get(1).map_or(0, |v| v & 15) << 4))
        .collect()
}

impl QuantizedMicroLora {
    /// Quantises both factors; per row of A and of B, or in blocks of `block` values for NF4.
    pub fn new(f: &Factors, bits: u8, scheme: &str, block: usize) -> Result<Self> {
        let scheme = match (scheme, bits) {
            ("symmetric", 4 | 8) => Scheme::Symmetric,
            ("nf4", 4) => Scheme::Nf4,
            ("symmetric", _) => return Err(Error::config("bits", "4 or 8", bits)),
            ("nf4", _) => return Err(Error::config("bits", "4 for the scheme \"nf4\"", bits)),
            _ => {
                return Err(Error::config(
                    "scheme",
                    "\"symmetric\" or \"nf4\"",
                    format!("{scheme:?}"),
                ));
            }
        };
        if block == 0 {
            return Err(Error::config("block", "at least 1", block));
        }
        let coded = |w: &[f32], row: usize| -> Result<Packed> {
            let (codes, scales, group) = match scheme {
                Scheme::Symmetric => {
                    let axis = Axis {
                        channels: w.len() / row,
                        inner: row,
                    };
                    let (q, s) = quantize_symmetric(w, axis, bits)?;
                    (q.iter().map(|q| q.cast_unsigned()).collect(), s, row)
                }
                Scheme::Nf4 => {
                    let (q, s) = quantize_nf4(w, block)?;
                    (q, s, block)
                }
            };
            Ok(Packed {
                codes: pack(&codes, bits),
                scales,
                group,
            })
        };
        Ok(Self {
            dim: f.dim(),
            rank: f.rank(),
            scale: f.scale(),
            bits,
            scheme,
            a: coded(f.a(), f.dim())?,
            b: coded(f.b(), f.rank())?,
            identity: f.is_identity(),
        })
    }

    /// Value `i` of a matrix.
    #[inline]
    fn value(&self, m: &Packed, i: usize) -> f32 {
        let scale = m.scales[i / m.group];
        match (self.scheme, self.bits) {
            (Scheme::Symmetric, 8) => f32::from(m.codes[i].cast_signed()) * scale,
            (Scheme::Symmetric, _) => {
                // The nibble's sign bit is its highest: shift it to the byte's and back.
                let nibble = (m.codes[i / 2] >> (4 * (i % 2))) << 4;
                f32::from(nibble.cast_signed() >> 4) * scale
            }
            (Scheme::Nf4, _) => NF4_CODE[usize::from((m.codes[i / 2] >> (4 * (i % 2))) & 15)] * scale,
        }
    }

    /// Rows of `x` `(n, d)` through the adapter; stops at the first row that is not finite.
    pub fn forward_rows(&self, x: &[f32], out: &mut [f32]) -> Result<()> {
        check_dim("out", x.len(), out.len())?;
        check_finite("x", x)?;
        let d = self.dim;
        let mut h = vec![0.0f32; self.rank];
        for (x, y) in x.chunks_exact(d).zip(out.chunks_exact_mut(d)) {
            y.copy_from_slice(x);
            if self.identity {
                continue;
            }
            for (r, h) in h.iter_mut().enumerate() {
                let sum: f32 = x
                    .iter()
                    .enumerate()
                    .map(|(i, x)| self.value(&self.a, r * d + i) * x)
                    .sum();
                *h = self.scale * sum;
            }
            for (i, y) in y.iter_mut().enumerate() {
                for (r, h) in h.iter().enumerate() {
                    *y += self.value(&self.b, i * self.rank + r) * h;
                }
            }
        }
        Ok(())
    }

    /// The factors that the codes stand for.
    pub fn dequantize(&self) -> Result<Factors> {
        let all = |m: &Packed| (0..self.rank * self.dim).map(|i| self.value(m, i)).collect();
        Factors::new(self.dim, self.rank, self.scale, all(&self.a), all(&self.b))
    }

    /// Length of the vectors.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Rank.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Bits per weight.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The public name of the scheme.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match self.scheme {
            Scheme::Symmetric => "symmetric",
            Scheme::Nf4 => "nf4",
        }
    }

    /// Bytes of codes and scales.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        [&self.a, &self.b]
            .iter()
            .map(|m| m.codes.len() + m.scales.len() * size_of::<f32>())
            .sum()
    }

    /// Serialises.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        this.validate()
            .map_err(|e| Error::corrupt("QuantizedMicroLoRA state", e))?;
        Ok(this)
    }

    fn validate(&self) -> Result<()> {
        if !matches!((self.scheme, self.bits), (_, 4) | (Scheme::Symmetric, 8)) {
            return Err(Error::config("bits", "4 or 8", self.bits));
        }
        let n = self
            .dim
            .checked_mul(self.rank)
            .filter(|n| *n > 0)
            .ok_or_else(|| Error::corrupt("sizes", "zero or too large"))?;
        check_finite("scale", &[self.scale])?;
        for m in [&self.a, &self.b] {
            let bytes = if self.bits == 8 { n } else { n.div_ceil(2) };
            check_dim("codes", bytes, m.codes.len())?;
            if m.group == 0 {
                return Err(Error::corrupt("group", "zero"));
            }
            check_dim("scales", n.div_ceil(m.group), m.scales.len())?;
            check_finite("scales", &m.scales)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    fn factors(d: usize, r: usize) -> Factors {
        let mut g = rng::stream(3, 0);
        let mut draw = || (0..r * d).map(|_| g.random::<f32>() - 0.5).collect::<Vec<f32>>();
        let (a, b) = (draw(), draw());
        Factors::new(d, r, 0.7, a, b).unwrap()
    }

    #[test]
    fn forward_equals_its_own_dequantised_factors() {
        for (d, r) in [(24, 2), (7, 1), (33, 2)] {
            let f = factors(d, r);
            let x: Vec<f32> = (0..2 * d).map(|i| (i as f32).sin()).collect();
            for (bits, scheme) in [(8, "symmetric"), (4, "symmetric"), (4, "nf4")] {
                let q = QuantizedMicroLora::new(&f, bits, scheme, 16).unwrap();
                let (mut y, mut z) = (vec![0.0; 2 * d], vec![0.0; 2 * d]);
                q.forward_rows(&x, &mut y).unwrap();
                q.dequantize().unwrap().forward_rows(&x, &mut z).unwrap();
                for (y, z) in y.iter().zip(&z) {
                    assert!((y - z).abs() < 1e-5);
                }
                let back = QuantizedMicroLora::from_bytes(&q.to_bytes().unwrap()).unwrap();
                assert_eq!(back, q);
                assert!(q.nbytes() < 2 * d * r * 4);
            }
        }
    }

    #[test]
    fn untrained_stays_the_identity_and_bad_settings_are_refused() {
        let f = Factors::new(3, 1, 1.0, vec![1.0; 3], vec![0.0; 3]).unwrap();
        let q = QuantizedMicroLora::new(&f, 8, "symmetric", 64).unwrap();
        let x = [-0.0f32, 1.0, 2.0];
        let mut y = [9.0; 3];
        q.forward_rows(&x, &mut y).unwrap();
        assert!(x.iter().zip(&y).all(|(a, b)| a.to_bits() == b.to_bits()));
        for (bits, scheme, block) in [
            (5, "symmetric", 64),
            (8, "nf4", 64),
            (8, "log", 64),
            (4, "nf4", 0),
        ] {
            assert!(QuantizedMicroLora::new(&f, bits, scheme, block).is_err());
        }
        let mut bad = q;
        bad.a.codes.pop();
        assert!(QuantizedMicroLora::from_bytes(&bad.to_bytes().unwrap()).is_err());
    }
}
