"""Global workspace: few slots that many modules write to and read from."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sona.attention._arrays import Array, cotangent, floats, quote, sum_to, view
from sona.attention._errors import DTypeError, ParameterError
from sona.attention._softmax import forward, operands, pullback, with_mask
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["GlobalWorkspace", "WorkspaceItems", "WorkspaceOutput", "global_workspace", "workspace_select"]

_RULE = ("dense", 0)
_WEIGHTS = ("wq", "wk", "wv", "wq_broadcast", "wk_broadcast", "wv_broadcast")


class WorkspaceOutput(NamedTuple):
    """Result of one write and broadcast."""

    out: Array
    """Modules after the broadcast, ``(…, n, d)``."""
    slots: Array
    """Slots after the write, ``(…, s, d)``."""


class WorkspaceItems(NamedTuple):
    """What a workspace holds, by decreasing salience."""

    keys: Array
    """int64 ``(c,)``."""
    salience: Array
    """float64 ``(c,)``, decayed to the time asked for."""


def workspace_select(salience: Any, capacity: int, *, threshold: float | None = None) -> Array:
    """The `capacity` most salient items at or above `threshold`.

    Parameters
    ----------
    salience : array_like, shape (n,), float32 or float64
    capacity : int
        At least 0.
    threshold : float, optional
        Items below it are not selected.

    Returns
    -------
    ndarray of int64, shape (c,), c <= capacity
        By decreasing salience, ties lower index first.

    Raises
    ------
    ParameterError
        ``capacity < 0``, or NaN in `salience`.

    References
    ----------
    Baars 1988; Cowan 2001 (a capacity of about four).

    Examples
    --------
    >>> from sona.attention import workspace_select
    >>> workspace_select([0.1, 0.9, 0.5, 0.9], 3, threshold=0.2)
    array([1, 3, 2])
    """
    (s,) = floats(("salience",), (salience,))
    if s.ndim != 1:
        raise ShapeError(f"salience: expected one axis, got {s.shape}")
    if capacity < 0:
        raise ParameterError(f"capacity: expected at least 0, got {capacity}")
    if np.isnan(s).any():
        raise ParameterError("salience: NaN has no order")
    order = np.argsort(-s, kind="stable")[:capacity]
    return order if threshold is None else order[s[order] >= threshold]


def _top(logits: Array, k: int) -> Array:
    """True on the k largest of the last axis, ties lower index."""
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    mask = np.zeros(logits.shape, dtype=bool)
    np.put_along_axis(mask, order, True, axis=-1)
    return mask


class _Pass:
    """One write and broadcast, with what the gradients need."""

    def __init__(self, slots: Any, x: Any, topk: int | None, weights: dict[str, Any], gate: Any, residual: bool) -> None:
        names = ("slots", "x", "gate", *_WEIGHTS)
        slots, x, gate, *given = floats(names, (slots, x, gate, *(weights[name] for name in _WEIGHTS)))
        if slots.ndim < 2 or x.ndim < 2 or slots.shape[-1] != x.shape[-1]:
            raise ShapeError(f"operands do not fit: {quote(('slots', 'x'), (slots, x))}")
        d = x.shape[-1]
        for name, w in zip(_WEIGHTS, given, strict=True):
            if w is not None and w.shape != (d, d):
                raise ShapeError(f"{name}: expected ({d}, {d}), got {w.shape}")
        if topk is not None and topk < 1:
            raise ParameterError(f"topk: expected at least 1, got {topk}")
        try:
            lead = np.broadcast_shapes(slots.shape[:-2], x.shape[:-2])
        except ValueError as error:
            raise ShapeError(f"operands do not fit: {quote(('slots', 'x'), (slots, x))}") from error
        self.given, self.residual = (slots, x, gate), residual
        self.weights = dict(zip(_WEIGHTS, given, strict=True))
        self.x = np.broadcast_to(x, (*lead, *x.shape[-2:]))
        self.slots = np.broadcast_to(slots, (*lead, *slots.shape[-2:]))
        if gate is not None:
            try:
                fits = np.broadcast_shapes(gate.shape, self.slots.shape) == self.slots.shape
            except ValueError:
                fits = False
            if not fits:
                raise ShapeError(f"gate: {gate.shape} does not broadcast to {self.slots.shape}")
        q, k, v = self._apply("wq", self.slots), self._apply("wk", self.x), self._apply("wv", self.x)
        mask = None
        if topk is not None and topk < x.shape[-2]:
            mask = _top(q @ np.swapaxes(k, -1, -2), topk)
        self.write = operands(q, k, v, scale=None, mask=mask)
        self.write_rule = with_mask(self.write, 0)
        self.written = np.asarray(forward(self.write, self.write_rule))
        self.after = self.written if gate is None else gate * self.written + (1 - gate) * self.slots
        self.read = operands(
            self._apply("wq_broadcast", self.x),
            self._apply("wk_broadcast", self.after),
            self._apply("wv_broadcast", self.after),
            scale=None,
        )
        heard = np.asarray(forward(self.read, _RULE))
        self.result = WorkspaceOutput(np.asarray(self.x + heard if residual else heard), np.asarray(self.after))

    def _apply(self, name: str, x: Array) -> Array:
        w = self.weights[name]
        return np.ascontiguousarray(x) if w is None else np.ascontiguousarray(x @ w.T)

    def pull(self, dout: Any) -> Gradients:
        """Gradients of the slots, the modules, the weights and the gate, for ∂L/∂out; the selected set is held fixed."""
        slots, x, gate = self.given
        d = cotangent(dout, self.result.out.shape, self.x.dtype)
        dx = d.copy() if self.residual else np.zeros_like(self.x)
        dw: Gradients = {}

        def back(name: str, source: Array, g: Array) -> Array:
            w = self.weights[name]
            if w is None:
                return g
            width = g.shape[-1]
            dw[name] = g.reshape(-1, width).T @ source.reshape(-1, width)
            return np.asarray(g @ w)

        g = pullback(self.read, _RULE)(d)
        dx = dx + back("wq_broadcast", self.x, g["q"])
        dafter = back("wk_broadcast", self.after, g["k"]) + back("wv_broadcast", self.after, g["v"])
        dslots, dwritten = np.zeros_like(self.slots), dafter
        if gate is not None:
            dwritten, dslots = gate * dafter, (1 - gate) * dafter
            dw["gate"] = sum_to(dafter * (self.written - self.slots), gate.shape)
        g = pullback(self.write, self.write_rule)(dwritten)
        dslots = dslots + back("wq", self.slots, g["q"])
        dx = dx + back("wk", self.x, g["k"]) + back("wv", self.x, g["v"])
        return {"slots": sum_to(dslots, slots.shape), "x": sum_to(dx, x.shape), **dw}


def global_workspace(
    slots: Any,
    x: Any,
    *,
    topk: int | None = None,
    wq: Any = None,
    wk: Any = None,
    wv: Any = None,
    wq_broadcast: Any = None,
    wk_broadcast: Any = None,
    wv_broadcast: Any = None,
    gate: Any = None,
    residual: bool = True,
) -> WorkspaceOutput:
    """Modules compete to write into slots; the slots are broadcast to all modules.

    Write: A = softmax over the `topk` largest of slots·W_q (x·W_k)ᵀ/√d, slots' = gate·A·x·W_v + (1 − gate)·slots.
    Broadcast: out = x + softmax(x·W_q' (slots'·W_k')ᵀ/√d)·slots'·W_v'.

    Parameters
    ----------
    slots : array_like, shape (…, s, d), float32 or float64
    x : array_like, shape (…, n, d)
        Modules.
    topk : int, optional
        Modules that each slot attends to; default all.
    wq, wk, wv, wq_broadcast, wk_broadcast, wv_broadcast : array_like, shape (d, d), optional
        Applied as ``x @ W.T``; default: the identity.
    gate : array_like, broadcastable to (…, s, d), optional
        Share of the new; default 1.
    residual : bool, default True
        Add the broadcast to `x`, instead of returning it alone.

    Returns
    -------
    WorkspaceOutput
        ``out (…, n, d)`` and ``slots (…, s, d)``. `vjp` holds the selected set fixed.

    Raises
    ------
    ShapeError, DTypeError, ParameterError

    References
    ----------
    Goyal et al. 2022, "Coordination Among Neural Modules Through a Shared Global Workspace"; weights are renormalised over
    the selected modules and scaled by d^−½, as in the paper's text.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import global_workspace
    >>> modules = np.array([[5.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
    >>> global_workspace(np.array([[1.0, 0.0]]), modules, topk=1).slots
    array([[5., 0.]])
    """
    weights = dict(zip(_WEIGHTS, (wq, wk, wv, wq_broadcast, wk_broadcast, wv_broadcast), strict=True))
    return _Pass(slots, x, topk, weights, gate, residual).result


@differentiable(global_workspace)
def _global_workspace_vjp(
    slots: Any,
    x: Any,
    *,
    topk: int | None = None,
    wq: Any = None,
    wk: Any = None,
    wv: Any = None,
    wq_broadcast: Any = None,
    wk_broadcast: Any = None,
    wv_broadcast: Any = None,
    gate: Any = None,
    residual: bool = True,
) -> tuple[WorkspaceOutput, Pullback]:
    weights = dict(zip(_WEIGHTS, (wq, wk, wv, wq_broadcast, wk_broadcast, wv_broadcast), strict=True))
    run = _Pass(slots, x, topk, weights, gate, residual)
    return run.result, run.pull


class GlobalWorkspace:
    """A buffer of at most `capacity` items that compete by salience and fade with time.

    Parameters
    ----------
    capacity : int, default 4
        At least 1.
    threshold : float, default 0.0
        Items whose faded salience is below are dropped and not taken in.
    decay : float, default 1.0
        Factor per second, above 0 and at most 1.
    lifetime : float, optional
        Seconds after which an item is dropped.

    References
    ----------
    Baars 1988; Dehaene & Changeux 2011; Cowan 2001.

    Examples
    --------
    >>> from sona.attention import GlobalWorkspace
    >>> workspace = GlobalWorkspace(2, decay=0.5)
    >>> [workspace.submit(key, s, t=0.0) for key, s in ((1, 0.9), (2, 0.5), (3, 0.6))]
    [True, True, True]
    >>> workspace.items(t=1.0)
    WorkspaceItems(keys=array([1, 3]), salience=array([0.45, 0.3 ]))
    """

    def __init__(self, capacity: int = 4, *, threshold: float = 0.0, decay: float = 1.0, lifetime: float | None = None) -> None:
        if capacity < 1:
            raise ParameterError(f"capacity: expected at least 1, got {capacity}")
        if not 0 < decay <= 1:
            raise ParameterError(f"decay: expected above 0 and at most 1, got {decay}")
        if lifetime is not None and not lifetime > 0:
            raise ParameterError(f"lifetime: expected above 0, got {lifetime}")
        if math.isnan(threshold):
            raise ParameterError("threshold: expected a number, got NaN")
        self.capacity, self.threshold, self.decay, self.lifetime = capacity, threshold, decay, lifetime
        self._items: dict[int, tuple[float, float]] = {}

    def _now(self, key: int, t: float) -> float:
        """Salience of a stored item at time t."""
        salience, since = self._items[key]
        return float(salience * self.decay ** (t - since))

    def _drop(self, t: float) -> None:
        for key in list(self._items):
            old = self.lifetime is not None and t - self._items[key][1] > self.lifetime
            if old or self._now(key, t) < self.threshold:
                del self._items[key]

    def submit(self, key: int, salience: float, *, t: float) -> bool:
        """Offer an item at time `t` (seconds).

        Returns True if it is stored: below the threshold it is not; a known key or a free place takes it; otherwise it replaces
        the weakest (of equals the largest key) if it is strictly more salient.
        """
        if not (math.isfinite(salience) and math.isfinite(t)):
            raise ParameterError(f"salience and t: expected finite numbers, got {salience} and {t}")
        if isinstance(key, float) or view("key", key).dtype.kind not in "iu":
            raise DTypeError(f"key: expected an int, got {key!r}")
        self._drop(t)
        if salience < self.threshold:
            return False
        if key not in self._items and len(self._items) >= self.capacity:
            weakest = min(self._items, key=lambda k: (self._now(k, t), -k))
            if salience <= self._now(weakest, t):
                return False
            del self._items[weakest]
        self._items[int(key)] = (float(salience), float(t))
        return True

    def items(self, *, t: float) -> WorkspaceItems:
        """What is held at time `t`, by decreasing salience, ties lower key."""
        self._drop(t)
        found = sorted(((self._now(k, t), k) for k in self._items), key=lambda e: (-e[0], e[1]))
        return WorkspaceItems(
            np.array([k for _, k in found], dtype=np.int64), np.array([s for s, _ in found], dtype=np.float64)
        )

    def __len__(self) -> int:
        """Items held, as of the last call."""
        return len(self._items)

    def __repr__(self) -> str:
        """Fill and settings."""
        return f"GlobalWorkspace(capacity={self.capacity}, held={len(self)}, decay={self.decay})"
