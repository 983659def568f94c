"""State-space models with selection: S6, SSD, and the Mamba block."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, cotangent, floats, sum_to
from sona.attention._errors import ParameterError
from sona.attention._module import Module, linear, linear_vjp, uniform
from sona.attention._vjp import Gradients, Pullback, differentiable, vjp
from sona.exceptions import ShapeError

__all__ = ["MambaBlock", "ScanOutput", "selective_scan", "ssd"]


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
    return scan, ScanOutput(
        y.reshape((*scan.lead, size["L"], size["d"])), state.reshape((*scan.lead, size["d"], size["N"]))
    )


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


def _silu(x: Array) -> tuple[Array, Array]:
    """silu(x) and its slope."""
    s = 1 / (1 + np.exp(-x))
    return x * s, s * (1 + x * (1 - s))


class MambaBlock(Module):
    """A Mamba layer: projection, causal convolution, selective scan, gate, projection.

    Parameters
    ----------
    d_model : int
        Width of input and output.
    d_state : int, default 16
        States per channel.
    d_conv : int, default 4
        Steps that the convolution sees.
    expand : int, default 2
        Channels: ``e = expand·d_model``.
    dt_rank : int, optional
        Rank of the step sizes; default ``ceil(d_model / 16)``.
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0

    Notes
    -----
    Parameters: ``in_proj.weight (2e, d_model)``, ``conv1d.weight (e, 1, d_conv)``, ``conv1d.bias (e)``, ``x_proj.weight
    (dt_rank + 2·d_state, e)``, ``dt_proj.weight (e, dt_rank)``, ``dt_proj.bias (e)``, ``A_log (e, d_state)``, ``D (e)``,
    ``out_proj.weight (d_model, e)``: names and layout of state-spaces/mamba.

    References
    ----------
    Gu & Dao 2023, "Mamba", section 3.4.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import MambaBlock
    >>> block = MambaBlock(8)
    >>> x = np.random.default_rng(0).normal(size=(1, 6, 8)).astype("float32")
    >>> state, steps = None, []
    >>> for t in range(6):                     # one token at a time, constant memory
    ...     y, state = block.step(x[:, t], state)
    ...     steps.append(y)
    >>> bool(np.allclose(np.stack(steps, axis=1), block(x), atol=1e-5))
    True
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(dtype)
        rank = -(-d_model // 16) if dt_rank is None else dt_rank
        sizes = {"d_model": d_model, "d_state": d_state, "d_conv": d_conv, "expand": expand, "dt_rank": rank}
        for name, value in sizes.items():
            if value < 1:
                raise ParameterError(f"{name}: expected at least 1, got {value}")
        self.d_model, self.d_state, self.d_conv, self.expand, self.dt_rank = d_model, d_state, d_conv, expand, rank
        self.channels = e = expand * d_model
        rng = np.random.default_rng(seed)
        # Step sizes start between 0.001 and 0.1 (Mamba, section 3.6): the bias is their inverse softplus.
        dt = np.exp(rng.uniform(math.log(1e-3), math.log(1e-1), size=e))
        self._set(
            in_proj__weight=uniform(rng, 2 * e, d_model),
            conv1d__weight=rng.uniform(-(d_conv**-0.5), d_conv**-0.5, size=(e, 1, d_conv)),
            conv1d__bias=np.zeros(e),
            x_proj__weight=uniform(rng, rank + 2 * d_state, e),
            dt_proj__weight=rng.uniform(-(rank**-0.5), rank**-0.5, size=(e, rank)),
            dt_proj__bias=dt + np.log(-np.expm1(-dt)),
            A_log=np.log(np.tile(np.arange(1.0, d_state + 1), (e, 1))),
            D=np.ones(e),
            out_proj__weight=uniform(rng, d_model, e),
        )

    def _convolved(self, x: Array) -> Array:
        """Causal depth-wise convolution of ``(b, L, e)``."""
        p, k, steps = self._parameters, self.d_conv, x.shape[1]
        padded = np.concatenate([np.zeros((x.shape[0], k - 1, x.shape[2]), dtype=x.dtype), x], axis=1)
        taps = p["conv1d.weight"][:, 0]
        out = sum(padded[:, i : i + steps] * taps[:, i] for i in range(k))
        return np.asarray(out + p["conv1d.bias"])

    def _scan_operands(self, x: Array) -> tuple[Array, dict[str, Array]]:
        """What the scan takes, from the convolved channels."""
        p, r, n = self._parameters, self.dt_rank, self.d_state
        low = linear(x, p["x_proj.weight"])
        return low, {
            "u": x,
            "delta": linear(low[..., :r], p["dt_proj.weight"]),
            "A": -np.exp(p["A_log"]),
            "B": np.ascontiguousarray(low[..., r : r + n]),
            "C": np.ascontiguousarray(low[..., r + n :]),
            "D": p["D"],
            "delta_bias": p["dt_proj.bias"],
        }

    def __call__(self, x: Any) -> Array:
        """Run over whole sequences ``x (b, L, d_model)``."""
        x = self._input("x", x, 3, self.d_model)
        p, e = self._parameters, self.channels
        both = linear(x, p["in_proj.weight"])
        inner, z = np.ascontiguousarray(both[..., :e]), np.ascontiguousarray(both[..., e:])
        mixed = self._convolved(inner)
        active, slope = _silu(mixed)
        low, operands = self._scan_operands(active)
        result, back = vjp(selective_scan, **operands, z=z)
        out = linear(result.y, p["out_proj.weight"])

        def pull(dout: Array) -> Gradients:
            dy, dw_out, _ = linear_vjp(result.y, p["out_proj.weight"], cotangent(dout, out.shape, out.dtype))
            g = back(dy)
            r = self.dt_rank
            dlow_dt, dw_dt, _ = linear_vjp(low[..., :r], p["dt_proj.weight"], g["delta"])
            dlow = np.concatenate([dlow_dt, g["B"], g["C"]], axis=-1)
            dactive, dw_x, _ = linear_vjp(active, p["x_proj.weight"], dlow)
            dmixed = (g["u"] + dactive) * slope
            dinner, dw_conv = self._pull_convolution(inner, dmixed)
            dx, dw_in, _ = linear_vjp(x, p["in_proj.weight"], np.concatenate([dinner, g["z"]], axis=-1))
            grads = {
                "x": dx,
                "in_proj.weight": dw_in,
                "conv1d.weight": dw_conv,
                "conv1d.bias": dmixed.sum(axis=(0, 1)),
                "x_proj.weight": dw_x,
                "dt_proj.weight": dw_dt,
                "dt_proj.bias": g["delta_bias"],
                "A_log": g["A"] * operands["A"],
                "D": g["D"],
                "out_proj.weight": dw_out,
            }
            return {name: np.asarray(value, dtype=self.dtype) for name, value in grads.items()}

        self._pullback = pull
        return out

    def _pull_convolution(self, inner: Array, d: Array) -> tuple[Array, Array]:
        """Gradients of the input and the taps."""
        k, steps = self.d_conv, inner.shape[1]
        taps = self._parameters["conv1d.weight"][:, 0]
        dinner, dtaps = np.zeros_like(inner), np.zeros_like(taps)
        for i in range(k):
            # Tap i sees the input k − 1 − i steps ago.
            lag = k - 1 - i
            if lag < steps:
                dinner[:, : steps - lag] += d[:, lag:] * taps[:, i]
                dtaps[:, i] = (d[:, lag:] * inner[:, : steps - lag]).sum(axis=(0, 1))
        return dinner, dtaps[:, None, :]

    def step(self, x: Any, state: tuple[Array, Array] | None) -> tuple[Array, tuple[Array, Array]]:
        """One step: ``x (b, d_model)`` and the state that the last step returned (None at the start)."""
        x = self._input("x", x, 2, self.d_model)
        p, e, b = self._parameters, self.channels, len(x)
        if state is None:
            window = np.zeros((b, self.d_conv - 1, e), dtype=self.dtype)
            h = np.zeros((b, e, self.d_state), dtype=self.dtype)
        else:
            window, h = state
            if window.shape != (b, self.d_conv - 1, e) or h.shape != (b, e, self.d_state):
                raise ShapeError(f"state: it is for another batch or block: {window.shape}, {h.shape}")
        both = linear(x, p["in_proj.weight"])
        seen = np.concatenate([window, both[:, None, :e]], axis=1)
        mixed = np.einsum("bke,ek->be", seen, p["conv1d.weight"][:, 0]) + p["conv1d.bias"]
        active = np.asarray(_silu(mixed)[0], dtype=self.dtype)
        _, operands = self._scan_operands(active[:, None])
        gate = np.ascontiguousarray(both[:, None, e:])
        out = _s6({**dict.fromkeys(_S6), **operands, "z": gate, "h0": h}, softplus=True)[1]
        return linear(out.y[:, 0], p["out_proj.weight"]), (seen[:, 1:], out.state)

    def __repr__(self) -> str:
        """Sizes."""
        return f"MambaBlock({self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}, expand={self.expand})"
