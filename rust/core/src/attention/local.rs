//! Attention with a window and global tokens: local queries in narrow tiles, then the global ones in tiles of their own.

use super::heads::{Asked, Heads, Prepared};
use super::parted::Parted;
use super::rules::LocalGlobal;
use super::tile::Blocks;
use crate::kernels::real::Real;

/// Queries per piece of work.
fn chunk(blocks: Blocks) -> usize {
    4 * blocks.q
}

fn cost<T: Real>(heads: &Heads<'_, T>, rule: &LocalGlobal) -> usize {
    rule.seen() * heads.len() * (heads.d + heads.dv)
}

/// The operands in parts, for [`local_global_parted`].
#[must_use]
pub fn part<T: Real>(heads: &Heads<'_, T>, rule: &LocalGlobal, blocks: Blocks) -> Parted<T> {
    let threads = heads.threads(chunk(blocks), cost(heads, rule));
    Parted::new(heads, chunk(blocks), rule.global(), threads)
}

/// Attention of all heads. `out` (heads, n, dv), `lse` (heads, n).
pub fn local_global<T: Real>(
    heads: &Heads<'_, T>,
    rule: &LocalGlobal,
    blocks: Blocks,
    out: &mut [T],
    lse: Option<&mut [T]>,
) {
    local_global_parted(heads, &part(heads, rule, blocks), rule, blocks, out, lse);
}

/// [`local_global`] with operands that were cut up before.
pub fn local_global_parted<T: Real>(
    heads: &Heads<'_, T>,
    parted: &Parted<T>,
    rule: &LocalGlobal,
    blocks: Blocks,
    out: &mut [T],
    mut lse: Option<&mut [T]>,
) {
    let (n, dv) = (heads.n, heads.dv);
    let local = rule.local_only();
    heads.attend_parted(parted, |_| local.clone(), blocks, out, lse.as_deref_mut());
    let global = rule.global();
    if global.is_empty() || n == 0 {
        return;
    }
    let panels = heads.panels(parted);
    let ready = Prepared {
        parted,
        panels: &panels,
    };
    let stored = heads.q_of.iter().max().map_or(0, |top| top + 1);
    let mut rows = vec![T::ZERO; heads.len() * global.len() * dv];
    let mut sums = vec![T::ZERO; heads.len() * global.len()];
    let mut rest = &mut rows[..];
    let pieces = sums
        .chunks_exact_mut(global.len())
        .enumerate()
        .map(|(head, lse)| {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(global.len() * dv);
            rest = after;
            Some(Asked {
                head,
                strips: parted.listed(heads.q_of[head], stored),
                queries: global,
                out,
                lse: Some(lse),
            })
        });
    heads.attend_pieces(ready, |_| rule.clone(), blocks, pieces.collect());
    // Without values there is nothing to write, but the log-sum-exp still counts.
    for b in 0..heads.len() {
        for (r, &i) in global.iter().enumerate() {
            let (from, to) = ((b * global.len() + r), (b * n + i));
            out[to * dv..(to + 1) * dv].copy_from_slice(&rows[from * dv..(from + 1) * dv]);
            if let Some(lse) = lse.as_deref_mut() {
                lse[to] = sums[from];
            }
        }
    }
}
