//! One-shot content-addressable memory with binary synapses (Wu & Maass 2025).

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim};
use crate::metrics::Metrics;
use crate::rng::{self, ChaCha8Rng, RngExt};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"BTSM",
    version: 1,
};
/// Stream of plateaus and flips.
const STREAM: u64 = 0x6274_7370;
/// Most synapses.
const LIMIT: usize = 1 << 32;

/// Binary cells; each stored pattern lets a random few of them learn it at once.
#[derive(Debug, Clone)]
pub struct BtspMemory {
    n_in: usize,
    n_cells: usize,
    plateau_prob: f64,
    threshold: Option<f64>,
    seed: u64,
    rng: ChaCha8Rng,
    /// One row of bits per input, over cells: recall reads the rows of the active inputs only.
    synapses: Vec<u64>,
    /// Cells that had a plateau, by stored item.
    codes: Vec<Vec<u32>>,
}

impl BtspMemory {
    /// Empty.
    pub fn new(
        n_in: usize,
        n_cells: usize,
        plateau_prob: f64,
        threshold: Option<f64>,
        seed: u64,
    ) -> Result<Self> {
        for (name, n) in [("n_in", n_in), ("n_cells", n_cells)] {
            if n == 0 || n > u32::MAX as usize {
                return Err(Error::config(name, "1 to 4294967295", n));
            }
        }
        if n_in.checked_mul(n_cells).is_none_or(|n| n > LIMIT) {
            return Err(Error::config(
                "n_cells",
                format!("at most {LIMIT} synapses"),
                format!("{n_in} times {n_cells}"),
            ));
        }
        if !(plateau_prob > 0.0 && plateau_prob <= 1.0) {
            return Err(Error::config("plateau_prob", "a number in (0, 1]", plateau_prob));
        }
        if threshold.is_some_and(|t| !(t.is_finite() && t >= 0.0)) {
            return Err(Error::config(
                "threshold",
                "a number of at least 0",
                threshold.unwrap_or(0.0),
            ));
        }
        Ok(Self {
            n_in,
            n_cells,
            plateau_prob,
            threshold,
            seed,
            rng: rng::stream(seed, STREAM),
            synapses: vec![0; n_in * n_cells.div_ceil(64)],
            codes: Vec::new(),
        })
    }

    /// Inputs.
    #[must_use]
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Cells.
    #[must_use]
    pub fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Stored items.
    #[must_use]
    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Nothing stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
    }

    fn words(&self) -> usize {
        self.n_cells.div_ceil(64)
    }

    /// Learns a pattern: each cell has a plateau with the set probability, and there each synapse of an active input flips
    /// with probability ½. Returns the number of the item.
    pub fn store(&mut self, pattern: &[bool]) -> Result<usize> {
        check_dim("pattern", self.n_in, pattern.len())?;
        if !pattern.contains(&true) {
            return Err(Error::value("pattern", "an active input", "none"));
        }
        let words = self.words();
        let mut code: Vec<u32> = (0..self.n_cells as u32)
            .filter(|_| self.rng.random::<f64>() < self.plateau_prob)
            .collect();
        if code.is_empty() {
            // An item without a cell could never be recalled.
            code.push(self.rng.random_range(0..self.n_cells as u32));
        }
        for cell in &code {
            let (word, bit) = (*cell as usize / 64, 1u64 << (cell % 64));
            for i in (0..self.n_in).filter(|i| pattern[*i]) {
                if self.rng.random::<bool>() {
                    self.synapses[i * words + word] ^= bit;
                }
            }
        }
        self.codes.push(code);
        Ok(self.codes.len() - 1)
    }

    /// Active strong synapses of each cell, and the number of active inputs.
    fn drive(&self, cue: &[bool]) -> Result<(Vec<u32>, usize)> {
        check_dim("cue", self.n_in, cue.len())?;
        let words = self.words();
        let mut drive = vec![0u32; self.n_cells];
        let mut active = 0;
        for i in (0..self.n_in).filter(|i| cue[*i]) {
            active += 1;
            for (w, bits) in self.synapses[i * words..(i + 1) * words].iter().enumerate() {
                let mut bits = *bits;
                while bits != 0 {
                    drive[w * 64 + bits.trailing_zeros() as usize] += 1;
                    bits &= bits - 1;
                }
            }
        }
        Ok((drive, active))
    }

    /// Cells that a cue drives to threshold. Without a set threshold it lies half-way between the mean drive and the half
    /// of the cue's active inputs that a cell which learned the pattern expects.
    pub fn recall(&self, cue: &[bool]) -> Result<Vec<bool>> {
        let (drive, active) = self.drive(cue)?;
        let mean = drive.iter().map(|d| f64::from(*d)).sum::<f64>() / self.n_cells as f64;
        let threshold = self.threshold.unwrap_or(0.5 * (mean + 0.5 * active as f64));
        // A silent cue drives nothing, whatever the threshold.
        Ok(drive
            .iter()
            .map(|d| *d > 0 && f64::from(*d) >= threshold)
            .collect())
    }

    /// The stored item whose cells a cue drives most, in the mean above all cells' mean and over the spread that chance gives
    /// so many cells; the first among equals.
    pub fn matched(&self, cue: &[bool]) -> Result<usize> {
        if self.codes.is_empty() {
            return Err(Error::value("cue", "a memory with an item", "an empty one"));
        }
        let (drive, _) = self.drive(cue)?;
        let mean = drive.iter().map(|d| f64::from(*d)).sum::<f64>() / self.n_cells as f64;
        let mut best = (f64::NEG_INFINITY, 0);
        for (item, code) in self.codes.iter().enumerate() {
            let sum: f64 = code.iter().map(|c| f64::from(drive[*c as usize]) - mean).sum();
            let score = sum / (code.len() as f64).sqrt();
            if score > best.0 {
                best = (score, item);
            }
        }
        Ok(best.1)
    }

    /// Bytes of synapses and codes.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let codes: usize = self.codes.iter().map(|c| 4 * c.len()).sum();
        8 * self.synapses.len() + codes
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let strong: u64 = self.synapses.iter().map(|w| u64::from(w.count_ones())).sum();
        vec![
            ("stored", self.codes.len().into()),
            ("strong_synapses", strong.into()),
            ("bytes", self.nbytes().into()),
        ]
    }

    /// The whole state; what is stored next is what would have been.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let state = State {
            n_in: self.n_in,
            n_cells: self.n_cells,
            plateau_prob: self.plateau_prob,
            threshold: self.threshold,
            seed: self.seed,
            word: self.rng.get_word_pos(),
            synapses: self.synapses.clone(),
            codes: self.codes.clone(),
        };
        codec::encode(KIND, &state)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let wrong = |reason: String| Err(Error::corrupt("BTSPMemory state", reason));
        let s: State = codec::decode(KIND, bytes)?;
        let words = s.n_cells.div_ceil(64);
        if s.n_in.checked_mul(words) != Some(s.synapses.len()) {
            return wrong("sizes that do not agree".into());
        }
        let mut out = match Self::new(s.n_in, s.n_cells, s.plateau_prob, s.threshold, s.seed) {
            Ok(out) => out,
            Err(e) => return wrong(e.to_string()),
        };
        let spare = !0u64 << (s.n_cells % 64);
        let clean =
            s.n_cells.is_multiple_of(64) || s.synapses.chunks_exact(words).all(|r| r[words - 1] & spare == 0);
        let fine = |c: &Vec<u32>| {
            !c.is_empty() && c.windows(2).all(|w| w[0] < w[1]) && c.iter().all(|x| (*x as usize) < s.n_cells)
        };
        if !clean || !s.codes.iter().all(fine) {
            return wrong("a cell that is not there".into());
        }
        out.synapses = s.synapses;
        out.codes = s.codes;
        out.rng.set_word_pos(s.word);
        Ok(out)
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    n_in: usize,
    n_cells: usize,
    plateau_prob: f64,
    threshold: Option<f64>,
    seed: u64,
    word: u128,
    synapses: Vec<u64>,
    codes: Vec<Vec<u32>>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;

    #[test]
    fn masked_cues_find_their_item() {
        let (n_in, items) = (500, 60);
        let mut rng = rng::stream(1, 0);
        let patterns: Vec<Vec<bool>> = (0..items)
            .map(|_| (0..n_in).map(|_| rng.random::<f64>() < 0.1).collect())
            .collect();
        let mut memory = BtspMemory::new(n_in, 2000, 0.01, None, 0).unwrap();
        for (i, p) in patterns.iter().enumerate() {
            assert_eq!(memory.store(p).unwrap(), i);
        }
        for (i, p) in patterns.iter().enumerate() {
            let cue: Vec<bool> = p.iter().map(|b| *b && rng.random::<f64>() < 0.4).collect();
            assert_eq!(memory.matched(&cue).unwrap(), i);
        }
    }

    #[test]
    fn bytes_continue_and_hostile_ones_are_refused() {
        let mut a = BtspMemory::new(70, 100, 0.2, None, 3).unwrap();
        let p: Vec<bool> = (0..70).map(|i| i % 3 == 0).collect();
        a.store(&p).unwrap();
        let mut b = BtspMemory::from_bytes(&a.to_bytes().unwrap()).unwrap();
        a.store(&p).unwrap();
        b.store(&p).unwrap();
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
        assert!(BtspMemory::from_bytes(b"rubbish").is_err());
        a.codes[0].push(100);
        assert!(BtspMemory::from_bytes(&a.to_bytes().unwrap()).is_err());
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(BtspMemory::new(0, 1, 0.1, None, 0).is_err());
        assert!(BtspMemory::new(1, 1, 0.0, None, 0).is_err());
        assert!(BtspMemory::new(1, 1, 0.1, Some(f64::NAN), 0).is_err());
        let mut m = BtspMemory::new(3, 4, 0.1, None, 0).unwrap();
        assert!(m.matched(&[true; 3]).is_err());
        assert!(m.store(&[false; 3]).is_err());
        assert!(m.store(&[true; 2]).is_err());
        assert_eq!(m.recall(&[false; 3]).unwrap(), [false; 4]);
    }
}
