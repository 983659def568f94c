"""The Mamba block: a trainable layer around the selective scan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sona.attention._arrays import Array, allotted, cotangent
from sona.attention._errors import ParameterError
from sona.attention._module import Module, linear, linear_vjp, uniform
from sona.attention._vjp import Gradients, vjp
from sona.attention.state_space import selective_scan
from sona.exceptions import ShapeError

__all__ = ["MambaBlock"]


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
        allotted("d_model, expand, d_state, d_conv, dt_rank", e, max(d_model, d_state, d_conv, rank))
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
        given: dict[str, Any] = self._scan_operands(active[:, None])[1]
        gate = np.ascontiguousarray(both[:, None, e:])
        out = selective_scan(**given, z=gate, h0=h)
        return linear(out.y[:, 0], p["out_proj.weight"]), (seen[:, 1:], out.state)

    def __repr__(self) -> str:
        """Sizes."""
        return f"MambaBlock({self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}, expand={self.expand})"
