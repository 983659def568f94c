//! One seed per object, one ChaCha stream per component: the same numbers from Rust and Python, on every machine.

pub use rand::Rng;
pub use rand::RngExt;
pub use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Generator for stream `stream` of `seed`. Different streams of one seed are independent.
#[must_use]
pub fn stream(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// One draw from N(0, 1) by the polar method (Marsaglia & Bray 1964).
pub fn normal(rng: &mut impl Rng) -> f64 {
    loop {
        let u: f64 = 2.0 * rng.random::<f64>() - 1.0;
        let v: f64 = 2.0 * rng.random::<f64>() - 1.0;
        let s = u * u + v * v;
        if s > 0.0 && s < 1.0 {
            return u * (-2.0 * s.ln() / s).sqrt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_repeat_and_differ() {
        let draw = |s, t| stream(s, t).random::<u64>();
        assert_eq!(draw(1, 2), draw(1, 2));
        assert_ne!(draw(1, 2), draw(1, 3));
        assert_ne!(draw(1, 2), draw(2, 2));
    }

    #[test]
    fn normal_has_unit_variance() {
        let mut rng = stream(0, 0);
        let n = 50_000;
        let (mut s, mut s2) = (0.0, 0.0);
        for _ in 0..n {
            let z = normal(&mut rng);
            s += z;
            s2 += z * z;
        }
        let mean = s / f64::from(n);
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((s2 / f64::from(n) - 1.0).abs() < 0.03);
    }
}
