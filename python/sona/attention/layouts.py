"""Which blocks of keys a block of queries sees: bool arrays (blocks, blocks), row = query block.

Sparse Transformers (Child et al. 2019), BigBird (Zaheer et al. 2020).

>>> from sona.attention import layouts
>>> layouts.local(6, block=1, context=2).astype(int)
array([[1, 0, 0, 0, 0, 0],
       [1, 1, 0, 0, 0, 0],
       [1, 1, 1, 0, 0, 0],
       [0, 1, 1, 1, 0, 0],
       [0, 0, 1, 1, 1, 0],
       [0, 0, 0, 1, 1, 1]])
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sona.attention._arrays import allotted
from sona.attention._errors import ParameterError

__all__ = ["bigbird", "fixed", "local", "strided"]

Layout = npt.NDArray[np.bool_]


def _grid(n: int, block: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Block row and block column of each cell."""
    if n < 0:
        raise ParameterError(f"n: expected at least 0, got {n}")
    if block < 1:
        raise ParameterError(f"block: expected at least 1, got {block}")
    side = -(-n // block)
    allotted("n / block", side, side)
    index = np.arange(side, dtype=np.int64)
    return index[:, None], index[None, :]


def _stride(block: int, context: int) -> int:
    """Blocks per context."""
    if block < 1 or context < block or context % block:
        raise ParameterError(f"context: expected a multiple of block = {block}, got {context}")
    return context // block


def fixed(n: int, *, block: int, context: int, columns: int = 1) -> Layout:
    """Own context of ``context`` tokens, and the last `columns` blocks of every earlier one.

    Parameters
    ----------
    n : int
        Tokens.
    block : int
        Tokens per block.
    context : int
        Tokens per context, a multiple of `block`.
    columns : int, default 1
        Blocks at the end of each context that all later ones see.
    """
    r, c = _grid(n, block)
    s = _stride(block, context)
    if not 0 <= columns <= s:
        raise ParameterError(f"columns: expected 0 to {s}, got {columns}")
    return np.asarray((c <= r) & ((r // s == c // s) | (c % s >= s - columns)), dtype=np.bool_)


def local(n: int, *, block: int, context: int) -> Layout:
    """The block itself and the ``context // block`` blocks before it.

    Parameters
    ----------
    n, block, context : int
        As in `fixed`.
    """
    r, c = _grid(n, block)
    return np.asarray((c <= r) & (r - c <= _stride(block, context)), dtype=np.bool_)


def strided(n: int, *, block: int, context: int) -> Layout:
    """The last ``context // block`` blocks, and every ``context // block``-th before.

    Parameters
    ----------
    n, block, context : int
        As in `fixed`.
    """
    r, c = _grid(n, block)
    s = _stride(block, context)
    return np.asarray((c <= r) & ((r - c < s) | ((r - c) % s == 0)), dtype=np.bool_)


def bigbird(n: int, *, block: int, window: int = 3, num_global: int = 1, num_random: int = 2, seed: int = 0) -> Layout:
    """Window, global rows and columns, and random blocks; bidirectional.

    Parameters
    ----------
    n, block : int
        As in `fixed`.
    window : int, default 3
        Blocks of the window, the block itself in the middle.
    num_global : int, default 1
        First block rows and columns that see and are seen by all.
    num_random : int, default 2
        Further columns of each row that has so many left.
    seed : int, default 0
        Seed of the random columns.
    """
    r, c = _grid(n, block)
    for name, value in (("window", window), ("num_global", num_global), ("num_random", num_random)):
        if value < 0:
            raise ParameterError(f"{name}: expected at least 0, got {value}")
    layout: Layout = (np.abs(r - c) <= window // 2) | (r < num_global) | (c < num_global)
    rng = np.random.default_rng(seed)
    for row in layout:
        free = np.flatnonzero(~row)
        row[rng.choice(free, min(num_random, free.size), replace=False)] = True
    return layout
