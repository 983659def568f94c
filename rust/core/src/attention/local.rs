//! Attention with a window and global tokens: local queries in narrow tiles, then the global ones in tiles of their own.

use super::heads::{Heads, Prepared};
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
    let lses: Vec<Option<&mut [T]>> = match lse {
        Some(lse) => lse.chunks_exact_mut(n).map(Some).collect(),
        None => (0..heads.len()).map(|_| None).collect(),
    };
    // Without values there is nothing to write, but the log-sum-exp still counts.
    let mut outs: Vec<&mut [T]> = if dv == 0 {
        (0..heads.len()).map(|_| &mut [][..]).collect()
    } else {
        out.chunks_exact_mut(n * dv).collect()
    };
    let pieces = outs.drain(..).zip(lses).enumerate().collect();
    parted.share(
        pieces,
        |(b, (out, lse)): (usize, (&mut [T], Option<&mut [T]>)), buffers| {
            let mut rows = vec![T::ZERO; global.len() * dv];
            let mut sums = vec![T::ZERO; global.len()];
            heads.piece(
                b,
                ready,
                parted.listed(heads.q_of[b], stored),
                rule,
                blocks,
                global,
                &mut rows,
                Some(&mut sums),
                buffers,
            );
            for (row, &i) in rows.chunks_exact(dv.max(1)).zip(global) {
                out[i * dv..(i + 1) * dv].copy_from_slice(row);
            }
            if let Some(lse) = lse {
                for (x, &i) in sums.iter().zip(global) {
                    lse[i] = *x;
                }
            }
        },
    );
}
