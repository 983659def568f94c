"""Modern Hopfield networks: associative memory whose update is softmax attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from sona.attention._arrays import Array, check_finite_number, cotangent, floats, quote
from sona.attention._errors import ParameterError
from sona.attention._softmax import Operands, forward, operands, pullback, scale_of
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["HierarchicalHopfield", "HopfieldMemory", "hopfield_energy", "hopfield_retrieve"]

_RULE = ("dense", 0)


def _check(steps: int, tol: float) -> None:
    if steps < 1:
        raise ParameterError(f"steps: expected at least 1, got {steps}")
    if not tol >= 0:
        raise ParameterError(f"tol: expected at least 0, got {tol}")


def _attend(o: Operands, state: Array, values: Array) -> Array:
    return np.asarray(forward(o._replace(q=state, v=values), _RULE))


def _retrieve(
    state: Any, patterns: Any, values: Any, beta: float | None, steps: int, tol: float
) -> tuple[Array, list[tuple[Array, Array | None]], Operands, Operands]:
    """Result, the states before each step with the rows that still moved, and the operands of inner and last steps."""
    _check(steps, tol)
    scale = None if beta is None else check_finite_number("beta", beta)
    state, patterns, values = floats(("state", "patterns", "values"), (state, patterns, values))
    inner = operands(state, patterns, patterns, scale=scale)
    last = inner if values is None else operands(state, patterns, values, scale=scale)
    moving: Array | None = None
    trail: list[tuple[Array, Array | None]] = []
    # Later steps start from a state with the leading dimensions of all operands.
    now = state
    for step in range(steps):
        final = step == steps - 1
        o = last if final else inner
        trail.append((now, moving))
        o = o if now is state else operands(now, o.k, o.v, scale=o.scale)
        if final:
            out = np.asarray(forward(o, _RULE))
            if values is None and moving is not None:
                out = np.where(moving[..., None], out, now)
            return out, trail, inner, last
        new = np.asarray(forward(o, _RULE))
        if moving is not None:
            new = np.where(moving[..., None], new, now)
        if tol > 0:
            moved = np.linalg.norm(new - now, axis=-1) >= tol
            moving = moved if moving is None else moved & moving
        now = new
    raise AssertionError("steps >= 1")


def hopfield_retrieve(
    state: Any, patterns: Any, values: Any = None, *, beta: float | None = None, steps: int = 1, tol: float = 1e-4
) -> Array:
    """Retrieve patterns from partial or noisy states: ξ ← Xᵀ softmax(β·Xξ), repeated.

    Parameters
    ----------
    state : array_like, shape (…, S, d), float32 or float64
        States to start from.
    patterns : array_like, shape (…, N, d)
        Stored patterns X.
    values : array_like, shape (…, N, dv), optional
        Replace the patterns in the last step (hetero-association).
    beta : float, optional
        Inverse temperature; default ``d ** -0.5``.
    steps : int, default 1
        Updates at most.
    tol : float, default 1e-4
        A row stops after the update that moved it by less (2-norm); 0 always runs all steps.

    Returns
    -------
    ndarray, shape (…, S, d) or (…, S, dv)

    Raises
    ------
    ShapeError, DTypeError
        Operands do not fit.
    ParameterError
        ``steps < 1``, ``tol < 0``, or a `beta` that is not finite.

    Notes
    -----
    O(steps·S·N·d). One step with the default `beta` is `scaled_dot_product_attention`.

    References
    ----------
    Ramsauer et al. 2021, "Hopfield Networks is All You Need", equation 3.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hopfield_retrieve
    >>> patterns = np.array([[1.0, 1.0, -1.0, -1.0], [1.0, -1.0, 1.0, -1.0]])
    >>> hopfield_retrieve([[1.0, 1.0, -1.0, 0.2]], patterns, beta=8.0, steps=3).round(3)
    array([[ 1.,  1., -1., -1.]])
    """
    return _retrieve(state, patterns, values, beta, steps, tol)[0]


@differentiable(hopfield_retrieve)
def _hopfield_vjp(
    state: Any, patterns: Any, values: Any = None, *, beta: float | None = None, steps: int = 1, tol: float = 1e-4
) -> tuple[Array, Pullback]:
    out, trail, inner, last = _retrieve(state, patterns, values, beta, steps, tol)

    def pull(dout: Any) -> Gradients:
        d = cotangent(dout, out.shape, out.dtype)
        grads: Gradients = {"patterns": np.zeros_like(inner.k)}
        for step in reversed(range(len(trail))):
            before, moving = trail[step]
            final = step == len(trail) - 1
            o = last if final else inner
            o = operands(before, o.k, o.v, scale=o.scale)
            # Rows that had stopped pass their gradient on unchanged.
            frozen = None if moving is None or (final and values is not None) else ~moving[..., None]
            through = d if frozen is None else np.where(frozen, 0.0, d)
            g = pullback(o, _RULE)(through)
            grads["patterns"] = grads["patterns"] + g["k"]
            if final and values is not None:
                grads["values"] = g["v"]
            else:
                grads["patterns"] = grads["patterns"] + g["v"]
            d = g["q"] if frozen is None else g["q"] + np.where(frozen, d, 0.0)
        grads["state"] = d
        return {name: np.asarray(g, dtype=out.dtype) for name, g in grads.items()}

    return out, pull


def hopfield_energy(state: Any, patterns: Any, *, beta: float | None = None) -> Array:
    """Energy of each state: −β⁻¹·ln Σ exp(β·Xξ) + ½‖ξ‖² + β⁻¹·ln N + ½·max‖x‖².

    Retrieval never increases it.

    Parameters
    ----------
    state : array_like, shape (…, S, d), float32 or float64
    patterns : array_like, shape (…, N, d)
    beta : float, optional
        Inverse temperature, not 0; default ``d ** -0.5``.

    Returns
    -------
    ndarray, shape (…, S)

    References
    ----------
    Ramsauer et al. 2021, equation 2.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import hopfield_energy
    >>> hopfield_energy(np.zeros((1, 2)), np.eye(2), beta=1.0)
    array([0.5])
    """
    state, patterns = floats(("state", "patterns"), (state, patterns))
    if state.ndim < 2 or patterns.ndim < 2 or state.shape[-1] != patterns.shape[-1]:
        raise ShapeError(f"operands do not fit: {quote(('state', 'patterns'), (state, patterns))}")
    b = scale_of(beta, state.shape[-1])
    if b == 0:
        raise ParameterError("beta: the energy is not defined at 0")
    if patterns.shape[-2] == 0:
        raise ParameterError("patterns: the energy of an empty memory is not defined")
    try:
        np.broadcast_shapes(state.shape[:-2], patterns.shape[:-2])
    except ValueError as error:
        raise ShapeError(f"operands do not fit: {quote(('state', 'patterns'), (state, patterns))}") from error
    logits = b * (state @ np.swapaxes(patterns, -1, -2))
    top = logits.max(axis=-1, keepdims=True)
    lse = top[..., 0] + np.log(np.exp(logits - top).sum(axis=-1))
    largest = (patterns**2).sum(axis=-1).max(axis=-1)[..., None]
    energy = -lse / b + 0.5 * (state**2).sum(axis=-1) + np.log(patterns.shape[-2]) / b + 0.5 * largest
    return np.asarray(energy, dtype=state.dtype)


class HopfieldMemory:
    """Patterns stored one after another, retrieved by `hopfield_retrieve`.

    Parameters
    ----------
    dim : int
        Length of a pattern, at least 1.
    beta : float, optional
        Inverse temperature; default ``dim ** -0.5``.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import HopfieldMemory
    >>> memory = HopfieldMemory(3, beta=20.0)
    >>> memory.store(np.eye(3), values=np.array([[1.0], [2.0], [3.0]]))
    >>> memory.retrieve([[0.1, 0.9, 0.0]]).round(3)
    array([[2.]])
    """

    def __init__(self, dim: int, *, beta: float | None = None) -> None:
        if dim < 1:
            raise ParameterError(f"dim: expected at least 1, got {dim}")
        self.dim = dim
        self.beta = scale_of(beta, dim)
        self._patterns: Array | None = None
        self._values: Array | None = None

    def store(self, patterns: Any, values: Any = None) -> None:
        """Add patterns ``(N, dim)``, with values ``(N, dv)`` if those stored before have some."""
        patterns, values = floats(("patterns", "values"), (patterns, values))
        if patterns.ndim != 2 or patterns.shape[1] != self.dim:
            raise ShapeError(f"patterns: expected (N, {self.dim}), got {patterns.shape}")
        if values is not None and (values.ndim != 2 or len(values) != len(patterns)):
            raise ShapeError(f"values: expected ({len(patterns)}, dv), got {values.shape}")
        if self._patterns is None:
            self._patterns, self._values = patterns.copy(), None if values is None else values.copy()
            return
        if (values is None) != (self._values is None):
            raise ShapeError("values: either all stored patterns have values, or none")
        if values is not None and self._values is not None:
            if values.shape[1] != self._values.shape[1]:
                raise ShapeError(f"values: expected width {self._values.shape[1]}, got {values.shape[1]}")
            self._values = np.concatenate([self._values, values])
        self._patterns = np.concatenate([self._patterns, patterns])

    def retrieve(self, state: Any, *, steps: int = 1, tol: float = 1e-4) -> Array:
        """Patterns, or values, recalled from states ``(S, dim)``; zeros from an empty memory."""
        _check(steps, tol)
        if self._patterns is None:
            (state,) = floats(("state",), (state,))
            if state.ndim < 2 or state.shape[-1] != self.dim:
                raise ShapeError(f"state: expected (…, S, {self.dim}), got {state.shape}")
            return np.zeros_like(state)
        return hopfield_retrieve(state, self._patterns, self._values, beta=self.beta, steps=steps, tol=tol)

    def energy(self, state: Any) -> Array:
        """Energy of states ``(S, dim)``; ParameterError for an empty memory."""
        patterns = np.zeros((0, self.dim)) if self._patterns is None else self._patterns
        return hopfield_energy(state, patterns, beta=self.beta)

    def __len__(self) -> int:
        """Stored patterns."""
        return 0 if self._patterns is None else len(self._patterns)

    def __repr__(self) -> str:
        """Size and temperature."""
        return f"HopfieldMemory(dim={self.dim}, beta={self.beta:.4g}, patterns={len(self)})"


class HierarchicalHopfield:
    """Retrieval through clusters: a state looks only into the clusters whose centre fits it best.

    Parameters
    ----------
    patterns : array_like, shape (N, d), float32 or float64
    num_clusters : int
        1 to N. Centres are found by K-means; a state ranks them by inner product, so patterns should have similar norms.
    values : array_like, shape (N, dv), optional
        Returned in place of patterns.
    beta : float, optional
        Inverse temperature among patterns; default ``d ** -0.5``.
    beta_coarse : float, optional
        Inverse temperature among centres, which only orders them; default `beta`.
    seed : int, default 0
        Seed of the clustering.

    Notes
    -----
    With ``top_clusters == num_clusters`` retrieval is exactly that of the flat memory. One retrieval costs
    O(S·(num_clusters + N·top_clusters/num_clusters)·d) for clusters of equal size.

    References
    ----------
    Krotov 2021, "Hierarchical Associative Memory", in two levels.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import HierarchicalHopfield
    >>> x = np.random.default_rng(0).normal(size=(200, 16)).astype("float32")
    >>> memory = HierarchicalHopfield(x, num_clusters=10, beta=8.0)
    >>> found = memory.retrieve(x, top_clusters=3)             # looks at about a third of the patterns
    >>> bool((np.linalg.norm(found - x, axis=1) < 0.1).mean() > 0.85)
    True
    """

    def __init__(
        self,
        patterns: Any,
        *,
        num_clusters: int,
        values: Any = None,
        beta: float | None = None,
        beta_coarse: float | None = None,
        seed: int = 0,
    ) -> None:
        from sona.patterns import kmeans  # attention itself does not need the pattern room

        self._patterns, self._values = floats(("patterns", "values"), (patterns, values))
        if self._patterns.ndim != 2 or len(self._patterns) == 0:
            raise ShapeError(f"patterns: expected (N, d) with N >= 1, got {self._patterns.shape}")
        if values is not None and (self._values.ndim != 2 or len(self._values) != len(self._patterns)):
            raise ShapeError(f"values: expected ({len(self._patterns)}, dv), got {self._values.shape}")
        if not 1 <= num_clusters <= len(self._patterns):
            raise ParameterError(f"num_clusters: expected 1 to {len(self._patterns)}, got {num_clusters}")
        self.beta = scale_of(beta, self._patterns.shape[1])
        self.beta_coarse = self.beta if beta_coarse is None else check_finite_number("beta_coarse", beta_coarse)
        found = kmeans(self._patterns.astype(np.float32), num_clusters, seed=seed)
        labels = np.asarray(found.labels)
        self._centers = np.asarray(found.centroids, dtype=self._patterns.dtype)
        self._members = [np.flatnonzero(labels == c) for c in range(num_clusters)]

    @property
    def num_clusters(self) -> int:
        """Clusters of patterns."""
        return len(self._members)

    def retrieve(self, state: Any, *, top_clusters: int = 1, steps: int = 1) -> Array:
        """Recall from states ``(…, S, d)``, each among the patterns of its `top_clusters` best clusters."""
        _check(steps, 0.0)
        if not 1 <= top_clusters <= self.num_clusters:
            raise ParameterError(f"top_clusters: expected 1 to {self.num_clusters}, got {top_clusters}")
        if top_clusters == self.num_clusters:
            return hopfield_retrieve(state, self._patterns, self._values, beta=self.beta, steps=steps, tol=0.0)
        (now,) = floats(("state",), (state,))
        if now.ndim < 2 or now.shape[-1] != self._patterns.shape[1]:
            raise ShapeError(f"state: expected (…, S, {self._patterns.shape[1]}), got {now.shape}")
        lead, now = now.shape[:-1], now.reshape(-1, now.shape[-1])
        for step in range(steps):
            now = self._step(now, top_clusters, final=step == steps - 1)
        return now.reshape(*lead, now.shape[-1])

    def _step(self, state: Array, top: int, *, final: bool) -> Array:
        values = self._patterns if self._values is None or not final else self._values
        logits = self.beta_coarse * (state @ self._centers.T)
        best = np.sort(np.argsort(-logits, axis=1, kind="stable")[:, :top], axis=1)
        out = np.zeros((len(state), values.shape[1]), dtype=np.result_type(state, values))
        # States that look into the same clusters are answered together.
        groups, which = np.unique(best, axis=0, return_inverse=True)
        for g, clusters in enumerate(groups):
            rows = np.flatnonzero(which.reshape(-1) == g)
            members = np.concatenate([self._members[c] for c in clusters])
            out[rows] = hopfield_retrieve(state[rows], self._patterns[members], values[members], beta=self.beta, tol=0.0)
        return out

    def __repr__(self) -> str:
        """Sizes."""
        return f"HierarchicalHopfield(patterns={len(self._patterns)}, num_clusters={self.num_clusters}, beta={self.beta:.4g})"
