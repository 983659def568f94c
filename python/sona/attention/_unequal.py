"""Causal order where queries and keys differ in number, from runs where they do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from sona.attention._arrays import Array, cotangent
from sona.attention._vjp import Gradients, Pullback

__all__ = ["unequal"]

Run = Callable[[Array, Array, Array, bool], tuple[Array, Pullback]]


def _rows(x: Array, before: int = 0, after: int = 0) -> Array:
    """Rows of zeros added along axis −2."""
    width = [(0, 0)] * x.ndim
    width[-2] = (before, after)
    return np.pad(x, width)


def unequal(run: Run, q: Array, k: Array, v: Array, bottom_right: bool) -> tuple[Array, Pullback]:
    """Result and gradients for n ≠ m. ``run(q, k, v, causal)`` needs n = m when `causal`.

    Query i sees keys j ≤ i, or with `bottom_right` j ≤ i + m − n.
    """
    n, m = q.shape[-2], k.shape[-2]
    if n < m and bottom_right:
        return _more_keys(run, q, k, v)
    if n < m:
        out, back = run(q, k[..., :n, :], v[..., :n, :], True)

        def pull(dout: Any) -> Gradients:
            g = back(dout)
            return {"q": g["q"], "k": _rows(g["k"], after=m - n), "v": _rows(g["v"], after=m - n)}

        return out, pull
    if bottom_right:
        out, back = run(q[..., n - m :, :], k, v, True)
        full = _rows(out, before=n - m)

        def pull_late(dout: Any) -> Gradients:
            g = back(cotangent(dout, full.shape, full.dtype)[..., n - m :, :])
            return {**g, "q": _rows(g["q"], before=n - m)}

        return full, pull_late
    first, back_first = run(q[..., :m, :], k, v, True)
    rest, back_rest = run(q[..., m:, :], k, v, False)
    joined = np.concatenate([first, rest], axis=-2)

    def pull_both(dout: Any) -> Gradients:
        d = cotangent(dout, joined.shape, joined.dtype)
        a, b = back_first(d[..., :m, :]), back_rest(d[..., m:, :])
        return {"q": np.concatenate([a["q"], b["q"]], axis=-2), "k": a["k"] + b["k"], "v": a["v"] + b["v"]}

    return joined, pull_both


def _more_keys(run: Run, q: Array, k: Array, v: Array) -> tuple[Array, Pullback]:
    """The first m − n keys are seen by all: queries of zeros stand before the others, and their rows are dropped."""
    extra = k.shape[-2] - q.shape[-2]
    full, back = run(_rows(q, before=extra), k, v, True)
    out = np.ascontiguousarray(full[..., extra:, :])

    def pull(dout: Any) -> Gradients:
        g = back(_rows(cotangent(dout, out.shape, out.dtype), before=extra))
        return {**g, "q": np.ascontiguousarray(g["q"][..., extra:, :])}

    return out, pull
