//! A call of softmax attention: its operands and its rule, borrowed from numpy or copied.

use super::operands::{Float, Operand, map};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::heads::Heads;
use sona_core::attention::local;
use sona_core::attention::parted::Parted;
use sona_core::attention::rules::{BlockSparse, Causal, Dense, LocalGlobal, Mask};
use sona_core::attention::tile::Blocks;
use std::borrow::Cow;

fn causal(code: u8) -> Causal {
    match code {
        0 => Causal::No,
        1 => Causal::TopLeft,
        _ => Causal::BottomRight,
    }
}

/// A rule with its arrays, owned or borrowed.
pub(super) enum RuleData<'a, T: Clone> {
    Dense {
        causal: Causal,
        mask: MaskData<'a, T>,
        of: Vec<usize>,
        strides: [usize; 2],
        len: usize,
    },
    Local(LocalGlobal),
    Blocks {
        block: usize,
        layout: Cow<'a, [bool]>,
        of: Vec<usize>,
        causal: bool,
    },
}

pub(super) enum MaskData<'a, T: Clone> {
    None,
    Bool(Cow<'a, [bool]>),
    Float(Cow<'a, [T]>),
}

/// The arrays that a rule borrows from.
pub(super) enum RuleArrays<'py, T: numpy::Element> {
    None,
    Bool(Operand<'py, bool>),
    Float(Operand<'py, T>),
}

impl<'py, T: Float> RuleArrays<'py, T> {
    pub(super) fn new(rule: &Bound<'py, PyTuple>) -> PyResult<Self> {
        if rule.len() < 3 {
            return Ok(Self::None);
        }
        let x = rule.get_item(2)?;
        if x.cast::<PyArrayDyn<bool>>().is_ok() {
            return Ok(Self::Bool(Operand::new(&x)?));
        }
        if x.cast::<PyArrayDyn<T>>().is_ok() {
            return Ok(Self::Float(Operand::new(&x)?));
        }
        Ok(Self::None)
    }
}

/// `("dense", causal)` or `("dense", causal, mask, mask_of, strides)`; `("local", (window, causal), global)`;
/// `("blocks", (block, causal), layout, layout_of)`.
pub(super) fn parse<'a, T: Float>(
    rule: &Bound<'_, PyTuple>,
    arrays: &'a RuleArrays<'_, T>,
    n: usize,
    copy: bool,
) -> PyResult<RuleData<'a, T>> {
    let kind = rule.get_item(0)?;
    Ok(match kind.extract::<&str>()? {
        "dense" => {
            let (of, strides) = if rule.len() > 3 {
                (
                    map(Some(&rule.get_item(3)?), 0)?,
                    rule.get_item(4)?.extract::<[usize; 2]>()?,
                )
            } else {
                (Vec::new(), [0, 0])
            };
            let (mask, len) = match arrays {
                RuleArrays::None => (MaskData::None, 0),
                RuleArrays::Bool(a) => (MaskData::Bool(a.take(copy)?), a.axis(0) * a.axis(1)),
                RuleArrays::Float(a) => (MaskData::Float(a.take(copy)?), a.axis(0) * a.axis(1)),
            };
            RuleData::Dense {
                causal: causal(rule.get_item(1)?.extract()?),
                mask,
                of,
                strides,
                len,
            }
        }
        "local" => {
            let (window, causal) = rule.get_item(1)?.extract::<(usize, bool)>()?;
            let global = rule.get_item(2)?.extract::<Vec<usize>>()?;
            RuleData::Local(LocalGlobal::new(n, window, global, causal))
        }
        _ => {
            let (block, causal) = rule.get_item(1)?.extract::<(usize, bool)>()?;
            let layout = match arrays {
                RuleArrays::Bool(a) => a.take(copy)?,
                _ => Cow::Owned(Vec::new()),
            };
            RuleData::Blocks {
                block,
                layout,
                of: map(Some(&rule.get_item(3)?), 0)?,
                causal,
            }
        }
    })
}

impl<T: Float> RuleData<'_, T> {
    /// Queries per piece of work.
    pub(super) fn chunk(&self, blocks: Blocks) -> usize {
        match self {
            Self::Blocks { block, .. } => *block,
            _ => 4 * blocks.q,
        }
    }

    /// Multiply-adds, for the choice of the number of threads.
    pub(super) fn cost(&self, heads: &Heads<'_, T>) -> usize {
        match self {
            Self::Blocks { .. } => heads.cost() / 2,
            _ => heads.cost(),
        }
    }

    /// The operands in parts.
    pub(super) fn part(&self, heads: &Heads<'_, T>, blocks: Blocks) -> Parted<T> {
        match self {
            Self::Local(rule) => local::part(heads, rule, blocks),
            _ => {
                let chunk = self.chunk(blocks);
                heads.part(chunk, heads.threads(chunk, self.cost(heads)))
            }
        }
    }

    pub(super) fn dense(&self, b: usize, n: usize, m: usize) -> Dense<'_, T> {
        let Self::Dense {
            causal,
            mask,
            of,
            strides,
            len,
        } = self
        else {
            unreachable!("asked for by the dense rule alone")
        };
        let at = || of[b] * len..(of[b] + 1) * len;
        let mask = match mask {
            MaskData::None => Mask::None,
            MaskData::Bool(x) => Mask::Bool(&x[at()], *strides),
            MaskData::Float(x) => Mask::Float(&x[at()], *strides),
        };
        Dense {
            n,
            m,
            causal: *causal,
            mask,
        }
    }

    pub(super) fn mask_of(&self, b: usize) -> (usize, [usize; 2]) {
        match self {
            Self::Dense { of, strides, .. } if !of.is_empty() => (of[b], *strides),
            _ => (0, [0, 0]),
        }
    }

    pub(super) fn blocks(&self, b: usize, n: usize) -> BlockSparse<'_> {
        let Self::Blocks {
            block,
            layout,
            of,
            causal,
        } = self
        else {
            unreachable!("asked for by the block rule alone")
        };
        let cells = n.div_ceil(*block).pow(2);
        BlockSparse {
            n,
            block: *block,
            layout: &layout[of[b] * cells..(of[b] + 1) * cells],
            causal: *causal,
        }
    }
}

/// Operands of a call, borrowed or copied.
pub(super) struct Call<'a, T: Clone> {
    pub(super) q: Cow<'a, [T]>,
    pub(super) k: Cow<'a, [T]>,
    pub(super) v: Cow<'a, [T]>,
    maps: [Vec<usize>; 3],
    pub(super) size: [usize; 4],
    scale: T,
}

impl<T: Float> Call<'_, T> {
    /// What the call reads from now on without the interpreter's lock: nothing of the operands where they are `whole` in parts,
    /// else copies.
    pub(super) fn let_go(&mut self, whole: bool) {
        for x in [&mut self.q, &mut self.k, &mut self.v] {
            *x = Cow::Owned(if whole { Vec::new() } else { x.to_vec() });
        }
    }

    pub(super) fn heads(&self) -> Heads<'_, T> {
        let [n, m, d, dv] = self.size;
        Heads {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            n,
            m,
            d,
            dv,
            scale: self.scale,
            q_of: &self.maps[0],
            k_of: &self.maps[1],
            v_of: &self.maps[2],
        }
    }
}

/// With fewer queries the copy of keys and values would cost as much as the attention itself: the GIL stays held.
const COPY_FROM: usize = 16;
/// Multiply-adds (about 50 µs) below which releasing the GIL is not worth it.
pub(super) const DETACH_FROM: usize = 1_500_000;

/// Queries, keys and values of a call.
pub(super) struct Arrays<'py, T: numpy::Element> {
    pub(super) q: Operand<'py, T>,
    pub(super) k: Operand<'py, T>,
    pub(super) v: Operand<'py, T>,
}

impl<'py, T: Float> Arrays<'py, T> {
    pub(super) fn new(qkv: [&Bound<'py, PyAny>; 3]) -> PyResult<Self> {
        Ok(Self {
            q: Operand::new(qkv[0])?,
            k: Operand::new(qkv[1])?,
            v: Operand::new(qkv[2])?,
        })
    }

    pub(super) fn size(&self) -> [usize; 4] {
        [self.q.axis(1), self.k.axis(1), self.q.axis(0), self.v.axis(0)]
    }

    pub(super) fn call(
        &self,
        maps: Option<&Bound<'_, PyTuple>>,
        scale: f64,
        copy: bool,
    ) -> PyResult<Call<'_, T>> {
        let stored = |a: &Operand<'_, T>| a.shape()[..a.shape().len() - 2].iter().product::<usize>();
        let maps = match maps {
            None => [
                map(None, stored(&self.q))?,
                map(None, stored(&self.k))?,
                map(None, stored(&self.v))?,
            ],
            Some(t) => [
                map(Some(&t.get_item(0)?), 0)?,
                map(Some(&t.get_item(1)?), 0)?,
                map(Some(&t.get_item(2)?), 0)?,
            ],
        };
        Ok(Call {
            q: self.q.take(copy)?,
            k: self.k.take(copy)?,
            v: self.v.take(copy)?,
            maps,
            size: self.size(),
            scale: T::of(scale),
        })
    }

    pub(super) fn detach(&self, maps: Option<&Bound<'_, PyTuple>>) -> bool {
        let [n, m, d, dv] = self.size();
        let heads = match maps.and_then(|t| t.get_item(0).ok()) {
            Some(map) => map.len().unwrap_or(0),
            None => self.q.shape()[..self.q.shape().len() - 2].iter().product(),
        };
        n >= COPY_FROM && heads * n * m * (d + dv) >= DETACH_FROM
    }
}
