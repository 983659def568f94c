"""State-space models with selection: S6 and SSD."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, cotangent, floats, sum_to
from sona.attention._errors import DTypeError, ParameterError
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.exceptions import ShapeError

__all__ = ["ScanOutput", "selective_scan", "ssd"]


class ScanOutput(NamedTuple):
    """Result of a scan."""

    y: Array
    """Outputs."""
    state: Array
    """State after the last step: ``h0`` of what follows."""


class _Scan:
    """Operands of one scan, checked and with one leading axis; the result and its gradients."""

    def __init__(self, given: dict[str, Any], shapes: dict[str, tuple[str, ...]], **options: Any) -> None:
        """`shapes`: the axes of each operand after the leading ones, by name; ``...`` first where leading axes are allowed."""
        names = tuple(given)
        arrays = dict(zip(names, floats(names, tuple(given.values())), strict=True))
        self.options = options
        sizes: dict[str, int] = {}
        leads = []
        for name, axes in shapes.items():
            x = arrays[name]
            if x is None:
                if name in _REQUIRED:
                    raise DTypeError(f"{name}: expected float32 or float64, got None")
                continue
            free = axes[0] == "..."
            own = axes[1:] if free else axes
            if x.ndim < len(own) or (not free and x.ndim != len(own)):
                raise ShapeError(f"{name}: expected ({', '.join(axes)}), got {x.shape}")
            for axis, size in zip(own, x.shape[x.ndim - len(own) :], strict=True):
                if sizes.setdefault(axis, size) != size:
                    known = ", ".join(f"{n} {a.shape}" for n, a in arrays.items() if a is not None)
                    raise ShapeError(f"{name}: axis {axis} is {size}, elsewhere {sizes[axis]}: {known}")
            leads.append(x.shape[: x.ndim - len(own)])
        try:
            self.lead = np.broadcast_shapes(*leads)
        except ValueError as error:
            known = ", ".join(f"{n} {a.shape}" for n, a in arrays.items() if a is not None)
            raise ShapeError(f"leading dimensions do not broadcast: {known}") from error
        self.sizes, self.arrays, self.shapes = sizes, arrays, shapes
        if sizes["L"] < 1:
            raise ShapeError("expected at least one step")
        self.flat: list[Array | None] = []
        for name, axes in shapes.items():
            x = arrays[name]
            if x is not None and axes[0] == "...":
                own_shape = x.shape[x.ndim - len(axes) + 1 :]
                x = np.ascontiguousarray(np.broadcast_to(x, (*self.lead, *own_shape))).reshape((-1, *own_shape))
            self.flat.append(x)

    def gradients(self, parts: tuple[Array, ...]) -> Gradients:
        """Flat gradients in the order of `shapes`, in the shapes of the arguments that were given."""
        out: Gradients = {}
        for (name, axes), g in zip(self.shapes.items(), parts, strict=True):
            x = self.arrays[name]
            if x is None:
                continue
            if axes[0] == "...":
                own_shape = x.shape[x.ndim - len(axes) + 1 :]
                out[name] = sum_to(g.reshape((*self.lead, *own_shape)), x.shape)
            else:
                out[name] = g.reshape(x.shape)
        return out


#: Operands that every scan needs.
_REQUIRED = frozenset({"u", "delta", "x", "dt", "A", "B", "C"})

_S6 = {
    "u": ("...", "L", "d"),
    "delta": ("...", "L", "d"),
    "A": ("d", "N"),
    "B": ("...", "L", "N"),
    "C": ("...", "L", "N"),
    "D": ("d",),
    "z": ("...", "L", "d"),
    "delta_bias": ("d",),
    "h0": ("...", "d", "N"),
}


def _s6(given: dict[str, Any], softplus: bool) -> tuple[_Scan, ScanOutput]:
    scan = _Scan(given, _S6)
    y, state = _core.selective_scan(scan.flat, bool(softplus))
    size = scan.sizes
    return scan, ScanOutput(y.reshape((*scan.lead, size["L"], size["d"])), state.reshape((*scan.lead, size["d"], size["N"])))


def selective_scan(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    *,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    softplus: bool = True,
    h0: Any = None,
) -> ScanOutput:
    """S6: h_t = exp(Δ_t·A)·h_{t−1} + Δ_t·B_t·u_t, y_t = C_t·h_t + D·u_t, times silu(z_t).

    Parameters
    ----------
    u, delta : array_like, shape (…, L, d), float32 or float64
        Inputs and step sizes; Δ = softplus(delta + delta_bias).
    A : array_like, shape (d, N)
        Transitions, negative (not their logarithm).
    B, C : array_like, shape (…, L, N)
        Input and output maps.
    D : array_like, shape (d,), optional
        Skip.
    z : array_like, shape (…, L, d), optional
        Gate.
    delta_bias : array_like, shape (d,), optional
    softplus : bool, default True
        False: Δ = delta + delta_bias as it is.
    h0 : array_like, shape (…, d, N), optional
        State at the start; default zeros.

    Returns
    -------
    ScanOutput
        ``y (…, L, d)`` and ``state (…, d, N)``. Scanning a sequence in parts, each from the state of the one before, equals
        scanning it at once.

    Raises
    ------
    ShapeError, DTypeError

    Notes
    -----
    O(L·d·N), one exponential per channel, state and step. The gradient keeps one state in 64 steps.

    References
    ----------
    Gu & Dao 2023, "Mamba", algorithm 2 (B by Euler's rule).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import selective_scan
    >>> one = np.ones((3, 1))
    >>> selective_scan(one, one, -one[:1], one, one, softplus=False).y.round(3)
    array([[1.   ],
           [1.368],
           [1.503]])
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias, "h0": h0}
    return _s6(given, softplus)[1]


@differentiable(selective_scan)
def _selective_scan_vjp(
    u: Any,
    delta: Any,
    A: Any,
    B: Any,
    C: Any,
    *,
    D: Any = None,
    z: Any = None,
    delta_bias: Any = None,
    softplus: bool = True,
    h0: Any = None,
) -> tuple[ScanOutput, Pullback]:
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias, "h0": h0}
    scan, result = _s6(given, softplus)

    def pull(dy: Any, dstate: Any = None) -> Gradients:
        return scan.gradients(_core.selective_scan_vjp(scan.flat, bool(softplus), *_outer(result, dy, dstate)))

    return result, pull


def _outer(result: ScanOutput, dy: Any, dstate: Any) -> tuple[Array, Array]:
    """∂L/∂y and ∂L/∂state, contiguous."""
    y, state = result
    first = cotangent(dy, y.shape, y.dtype, "dy")
    return first, cotangent(0.0 if dstate is None else dstate, state.shape, state.dtype, "dstate")


_SSD = {
    "x": ("...", "L", "h", "p"),
    "dt": ("...", "L", "h"),
    "A": ("h",),
    "B": ("...", "L", "g", "N"),
    "C": ("...", "L", "g", "N"),
    "D": ("h",),
    "h0": ("...", "h", "p", "N"),
}


def _ssd(given: dict[str, Any], chunk: int) -> tuple[_Scan, ScanOutput]:
    if chunk < 1:
        raise ParameterError(f"chunk: expected at least 1, got {chunk}")
    scan = _Scan(given, _SSD)
    size = scan.sizes
    if size["g"] < 1 or size["h"] % size["g"]:
        known = ", ".join(f"{n} {a.shape}" for n, a in scan.arrays.items() if a is not None)
        raise ShapeError(f"B and C: {size['g']} groups do not divide {size['h']} heads: {known}")
    y, state = _core.ssd(scan.flat, chunk)
    return scan, ScanOutput(
        y.reshape((*scan.lead, size["L"], size["h"], size["p"])),
        state.reshape((*scan.lead, size["h"], size["p"], size["N"])),
    )


def ssd(x: Any, dt: Any, A: Any, B: Any, C: Any, *, D: Any = None, chunk: int = 64, h0: Any = None) -> ScanOutput:
    """Mamba-2's scan: h_t = exp(dt_t·A)·h_{t−1} + dt_t·x_t ⊗ B_t, y_t = h_t·C_t + D·x_t, a scalar A per head.

    Parameters
    ----------
    x : array_like, shape (…, L, h, p), float32 or float64
    dt : array_like, shape (…, L, h)
        Step sizes, positive (softplus already applied).
    A : array_like, shape (h,)
        Negative.
    B, C : array_like, shape (…, L, g, N)
        Head i uses group ``i // (h / g)``.
    D : array_like, shape (h,), optional
    chunk : int, default 64
        The gradient keeps one state in so many steps; results do not depend on it.
    h0 : array_like, shape (…, h, p, N), optional

    Returns
    -------
    ScanOutput
        ``y (…, L, h, p)`` and ``state (…, h, p, N)``.

    Raises
    ------
    ShapeError, DTypeError, ParameterError

    Notes
    -----
    O(L·h·p·N) by the recurrence.

    References
    ----------
    Dao & Gu 2024, "Transformers are SSMs", equation 16.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import ssd
    >>> one = np.ones((2, 1, 1))
    >>> ssd(one, one[..., 0], [-1.0], one, one).y.ravel().round(3)
    array([1.   , 1.368])
    """
    return _ssd({"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "h0": h0}, chunk)[1]


@differentiable(ssd)
def _ssd_vjp(
    x: Any, dt: Any, A: Any, B: Any, C: Any, *, D: Any = None, chunk: int = 64, h0: Any = None
) -> tuple[ScanOutput, Pullback]:
    scan, result = _ssd({"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D, "h0": h0}, chunk)

    def pull(dy: Any, dstate: Any = None) -> Gradients:
        return scan.gradients(_core.ssd_vjp(scan.flat, chunk, *_outer(result, dy, dstate)))

    return result, pull
