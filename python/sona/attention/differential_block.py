"""Multi-head differential attention as a trainable module."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sona.attention._arrays import Array, cotangent
from sona.attention._errors import ParameterError
from sona.attention._module import Module, linear, linear_vjp, uniform
from sona.attention._vjp import Gradients, vjp
from sona.attention.differential import differential_attention
from sona.attention.multi_head import join_heads, split_heads

__all__ = ["DiffAttention"]

_EPS = 1e-5


class DiffAttention(Module):
    """Multi-head differential attention with per-head normalisation.

    Parameters
    ----------
    embed_dim : int
        Width E of input and output.
    num_heads : int
        Heads H; 2·H divides E, and the width of queries and keys is ``d = E / (2·H)``.
    layer : int, default 1
        Depth of the layer, from 1; sets λ_init = 0.8 − 0.6·exp(−0.3·(layer − 1)).
    pairing : {"adjacent", "halves"}, default "adjacent"
        Which projected heads form a pair: (2h, 2h + 1), or (h, h + H).
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0

    Notes
    -----
    λ = exp(λ_q1·λ_k1) − exp(λ_q2·λ_k2) + λ_init; each head's output of width 2d passes through RMSNorm (eps 1e-5, gain
    ``subln.weight``) and is multiplied by 1 − λ_init. Parameters: ``q_proj.weight``, ``k_proj.weight``, ``v_proj.weight``,
    ``out_proj.weight`` (E, E); ``lambda_q1``, ``lambda_k1``, ``lambda_q2``, ``lambda_k2`` (d); ``subln.weight`` (2d).

    References
    ----------
    Ye et al. 2024, "Differential Transformer".

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import DiffAttention
    >>> DiffAttention(16, 2)(np.ones((1, 3, 16))).shape
    (1, 3, 16)
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        layer: int = 1,
        pairing: str = "adjacent",
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(dtype)
        if num_heads < 1 or embed_dim < 1 or embed_dim % (2 * num_heads):
            raise ParameterError(f"num_heads: twice it must divide embed_dim = {embed_dim}, got {num_heads}")
        if layer < 1:
            raise ParameterError(f"layer: expected at least 1, got {layer}")
        if pairing not in ("adjacent", "halves"):
            raise ParameterError(f"pairing: expected 'adjacent' or 'halves', got {pairing!r}")
        self.embed_dim, self.num_heads, self.layer, self.pairing = embed_dim, num_heads, layer, pairing
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * (layer - 1))
        d = embed_dim // (2 * num_heads)
        rng = np.random.default_rng(seed)
        names = ("q_proj", "k_proj", "v_proj", "out_proj")
        self._set(**{f"{name}__weight": uniform(rng, embed_dim, embed_dim) for name in names})
        self._set(**{f"lambda_{name}": rng.normal(0.0, 0.1, size=d) for name in ("q1", "k1", "q2", "k2")})
        self._set(subln__weight=np.ones(2 * d))

    def _pairs(self, x: Array) -> tuple[Array, Array]:
        """(b, 2H, n, d) → the first and second member of each pair, (b, H, n, d)."""
        if self.pairing == "adjacent":
            return np.ascontiguousarray(x[:, 0::2]), np.ascontiguousarray(x[:, 1::2])
        return np.ascontiguousarray(x[:, : self.num_heads]), np.ascontiguousarray(x[:, self.num_heads :])

    def _unpair(self, first: Array, second: Array) -> Array:
        if self.pairing == "halves":
            return np.concatenate([first, second], axis=1)
        out = np.empty((first.shape[0], 2 * self.num_heads, *first.shape[2:]), dtype=first.dtype)
        out[:, 0::2], out[:, 1::2] = first, second
        return out

    def __call__(self, x: Any, *, causal: bool = True) -> Array:
        """Attend within ``x (b, n, E)``."""
        x = self._input("x", x, 3, self.embed_dim)
        p, h = self._parameters, self.num_heads
        q1, q2 = self._pairs(split_heads(linear(x, p["q_proj.weight"]), 2 * h))
        k1, k2 = self._pairs(split_heads(linear(x, p["k_proj.weight"]), 2 * h))
        values = split_heads(linear(x, p["v_proj.weight"]), 2 * h)
        v = np.concatenate(self._pairs(values), axis=-1)
        e1 = math.exp(float(p["lambda_q1"] @ p["lambda_k1"]))
        e2 = math.exp(float(p["lambda_q2"] @ p["lambda_k2"]))
        lam = e1 - e2 + self.lambda_init
        heads, back = vjp(differential_attention, q1, k1, q2, k2, v, lam, causal=causal)
        rms = np.sqrt((heads**2).mean(axis=-1, keepdims=True) + _EPS)
        gain, keep = p["subln.weight"], 1.0 - self.lambda_init
        normed = heads / rms
        context = join_heads(np.asarray(normed * gain * keep, dtype=self.dtype))
        out = linear(context, p["out_proj.weight"])

        def pull(dout: Array) -> Gradients:
            dcontext, dw, _ = linear_vjp(context, p["out_proj.weight"], cotangent(dout, out.shape, out.dtype))
            dnormed = split_heads(dcontext, h) * keep
            grads: Gradients = {"out_proj.weight": dw, "subln.weight": (dnormed * normed).sum(axis=(0, 1, 2))}
            dnormed = dnormed * gain
            dheads = (dnormed - normed * (dnormed * normed).mean(axis=-1, keepdims=True)) / rms
            g = back(dheads)
            d = q1.shape[-1]
            parts = {
                "q_proj.weight": (g["q1"], g["q2"]),
                "k_proj.weight": (g["k1"], g["k2"]),
                "v_proj.weight": (g["v"][..., :d], g["v"][..., d:]),
            }
            grads["x"] = np.zeros_like(x)
            for name, (first, second) in parts.items():
                dx, grads[name], _ = linear_vjp(x, p[name], join_heads(self._unpair(first, second)))
                grads["x"] = grads["x"] + dx
            dlam = g["lam"].item()
            for name, other, factor in (
                ("q1", "k1", e1),
                ("k1", "q1", e1),
                ("q2", "k2", -e2),
                ("k2", "q2", -e2),
            ):
                grads[f"lambda_{name}"] = np.asarray(dlam * factor * p[f"lambda_{other}"], dtype=self.dtype)
            return {name: np.asarray(x, dtype=self.dtype) for name, x in grads.items()}

        self._pullback = pull
        return out

    def __repr__(self) -> str:
        """Sizes."""
        return f"DiffAttention({self.embed_dim}, {self.num_heads}, layer={self.layer}, pairing='{self.pairing}')"
