//! Quantisation of weights: symmetric per channel, affine per tensor, four-bit normal float.

use crate::error::{Error, Result, check_dim, check_finite};

/// Quantiles of the standard normal distribution, scaled to [−1, 1], with an exact zero (Dettmers et al. 2023,
/// appendix E).
pub const NF4_CODE: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

fn check_bits(bits: u8) -> Result<()> {
    if [2, 4, 6, 8].contains(&bits) {
        Ok(())
    } else {
        Err(Error::value("bits", "2, 4, 6 or 8", bits))
    }
}

/// Where a flat position lies along one axis: arrays are (outer, channels, inner), row-major.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Length of the axis.
    pub channels: usize,
    /// Product of the lengths behind it.
    pub inner: usize,
}

impl Axis {
    fn of(self, flat: usize) -> usize {
        flat / self.inner.max(1) % self.channels.max(1)
    }
}

/// q = clip(round-half-even(w/s), −2^(b−1), 2^(b−1)−1) with s = max|w|/(2^(b−1)−1) per channel; an all-zero channel has
/// s = 1.
pub fn quantize_symmetric(w: &[f32], axis: Axis, bits: u8) -> Result<(Vec<i8>, Vec<f32>)> {
    check_bits(bits)?;
    check_finite("w", w)?;
    let top = f32::from((1i16 << (bits - 1)) - 1);
    let mut scale = vec![0.0f32; axis.channels];
    for (i, v) in w.iter().enumerate() {
        let s = &mut scale[axis.of(i)];
        *s = s.max(v.abs());
    }
    for s in &mut scale {
        // A channel whose largest value is below the smallest quotient that float32 holds counts as zero.
        *s = if *s / top > 0.0 { *s / top } else { 1.0 };
    }
    let quantize =
        |(i, v): (usize, &f32)| (v / scale[axis.of(i)]).round_ties_even().clamp(-top - 1.0, top) as i8;
    Ok((w.iter().enumerate().map(quantize).collect(), scale))
}

/// q·s.
pub fn dequantize_symmetric(q: &[i8], scale: &[f32], axis: Axis) -> Result<Vec<f32>> {
    check_dim("scale", axis.channels, scale.len())?;
    check_finite("scale", scale)?;
    Ok(q.iter()
        .enumerate()
        .map(|(i, q)| f32::from(*q) * scale[axis.of(i)])
        .collect())
}

/// q = clip(round(w/s) + z, 0, 255) with s = (max − min)/255 and z = clip(round(−min/s), 0, 255); a constant has s = 1.
/// Rounding is half-even. Returns q, s, z.
pub fn quantize_affine(w: &[f32]) -> Result<(Vec<u8>, f64, u8)> {
    check_finite("w", w)?;
    let (lo, hi) = w.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| {
        (lo.min(f64::from(*v)), hi.max(f64::from(*v)))
    });
    let spread = (hi - lo) / 255.0;
    let s = if spread > 0.0 && spread.is_finite() {
        spread
    } else {
        1.0
    };
    let z = if w.is_empty() {
        0.0
    } else {
        (-lo / s).round_ties_even().clamp(0.0, 255.0)
    };
    let q = w
        .iter()
        .map(|v| ((f64::from(*v) / s).round_ties_even() + z).clamp(0.0, 255.0) as u8)
        .collect();
    Ok((q, s, z as u8))
}

/// Position of the nearest value of [`NF4_CODE`]; a tie goes to the lower one.
fn nearest_code(v: f32) -> u8 {
    let at = NF4_CODE.partition_point(|c| *c < v);
    let code = match at {
        0 => 0,
        16 => 15,
        _ if v - NF4_CODE[at - 1] <= NF4_CODE[at] - v => at - 1,
        _ => at,
    };
    code as u8
}

/// Codes 0 to 15 and the largest magnitude of each block of `block` values.
pub fn quantize_nf4(x: &[f32], block: usize) -> Result<(Vec<u8>, Vec<f32>)> {
    if block == 0 {
        return Err(Error::value("block", "at least 1", block));
    }
    check_finite("x", x)?;
    let absmax: Vec<f32> = x
        .chunks(block)
        .map(|b| b.iter().fold(0.0f32, |m, v| m.max(v.abs())))
        .collect();
    let codes = x
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let m = absmax[i / block];
            nearest_code(if m > 0.0 { v / m } else { 0.0 })
        })
        .collect();
    Ok((codes, absmax))
}

/// The values that the codes stand for.
pub fn dequantize_nf4(codes: &[u8], absmax: &[f32], block: usize) -> Result<Vec<f32>> {
    if block == 0 {
        return Err(Error::value("block", "at least 1", block));
    }
    check_dim("absmax", codes.len().div_ceil(block), absmax.len())?;
    check_finite("absmax", absmax)?;
    if let Some(c) = codes.iter().find(|c| **c > 15) {
        return Err(Error::value("codes", "0 to 15", c));
    }
    Ok(codes
        .iter()
        .enumerate()
        .map(|(i, c)| NF4_CODE[usize::from(*c)] * absmax[i / block])
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn symmetric_errs_by_half_a_step(w in proptest::collection::vec(-10.0f32..10.0, 1..60), bits in 0usize..4) {
            let bits = [2u8, 4, 6, 8][bits];
            for axis in [Axis { channels: 1, inner: w.len() }, Axis { channels: w.len(), inner: 1 }] {
                let (q, s) = quantize_symmetric(&w, axis, bits).unwrap();
                let back = dequantize_symmetric(&q, &s, axis).unwrap();
                for (i, (a, b)) in w.iter().zip(&back).enumerate() {
                    prop_assert!((a - b).abs() <= 0.5001 * s[axis.of(i)]);
                }
            }
        }

        #[test]
        fn affine_errs_by_half_a_step_where_zero_is_in_range(w in proptest::collection::vec(-3.0f32..3.0, 1..60)) {
            let mut w = w;
            w.push(0.0);
            let (q, s, z) = quantize_affine(&w).unwrap();
            for (v, q) in w.iter().zip(&q) {
                let back = (f64::from(*q) - f64::from(z)) * s;
                // Half a step of rounding and half a step of the rounded zero point at the ends.
                prop_assert!((f64::from(*v) - back).abs() <= 1.001 * s);
            }
        }

        #[test]
        fn nf4_takes_the_nearest_value(x in proptest::collection::vec(-5.0f32..5.0, 1..70), block in 1usize..9) {
            let (codes, absmax) = quantize_nf4(&x, block).unwrap();
            let back = dequantize_nf4(&codes, &absmax, block).unwrap();
            for (i, (v, b)) in x.iter().zip(&back).enumerate() {
                let m = absmax[i / block];
                let best = NF4_CODE.iter().map(|c| (c * m - v).abs()).fold(f32::INFINITY, f32::min);
                prop_assert!(((b - v).abs() - best).abs() <= 1e-6 * m);
            }
        }
    }

    #[test]
    fn edges() {
        let one = Axis {
            channels: 1,
            inner: 3,
        };
        assert_eq!(
            quantize_symmetric(&[0.0; 3], one, 8).unwrap(),
            (vec![0; 3], vec![1.0])
        );
        assert!(quantize_symmetric(&[0.0; 3], one, 5).is_err());
        assert!(quantize_symmetric(&[f32::NAN; 3], one, 8).is_err());
        assert_eq!(quantize_affine(&[2.5; 2]).unwrap().1, 1.0);
        assert_eq!(quantize_affine(&[]).unwrap(), (vec![], 1.0, 0));
        assert_eq!(quantize_nf4(&[0.0; 4], 2).unwrap(), (vec![7; 4], vec![0.0; 2]));
        assert!(quantize_nf4(&[0.0; 4], 0).is_err());
        assert!(dequantize_nf4(&[16], &[1.0], 4).is_err());
        assert!(dequantize_nf4(&[1, 2], &[1.0], 1).is_err());
    }
}
