"""Multi-head attention as a trainable module."""

from __future__ import annotations

from typing import Any

import numpy as np

from sona.attention._arrays import Array, cotangent, is_float, quote, view
from sona.attention._errors import DTypeError, ParameterError
from sona.attention._module import Module, glorot, linear, linear_vjp, uniform
from sona.attention._results import AttentionOutput
from sona.attention._softmax import causal_code, forward, operands, pullback, with_mask
from sona.attention._vjp import Gradients
from sona.exceptions import ShapeError

__all__ = ["MultiHeadAttention", "join_heads", "split_heads"]


def split_heads(x: Array, heads: int) -> Array:
    """(…, n, heads·d) → (…, heads, n, d)."""
    *lead, width = x.shape
    return np.ascontiguousarray(x.reshape(*lead, heads, width // heads).swapaxes(-3, -2))


def join_heads(x: Array) -> Array:
    """(…, heads, n, d) → (…, n, heads·d)."""
    *lead, h, n, d = x.shape
    return np.ascontiguousarray(x.swapaxes(-3, -2)).reshape(*lead, n, h * d)


class MultiHeadAttention(Module):
    """Attention in several subspaces: concat(headᵢ)·Wₒ + bₒ, headᵢ = Attention(x_q·W_qᵢ, x_k·W_kᵢ, x_v·W_vᵢ).

    Parameters
    ----------
    embed_dim : int
        Width E of inputs and output.
    num_heads : int
        Heads; divides E.
    bias : bool, default True
        Biases of all projections, zero at first.
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0
        Seed of the initial weights.

    Notes
    -----
    Parameters have the names and layout of ``torch.nn.MultiheadAttention``: ``in_proj_weight (3E, E)``, ``in_proj_bias (3E)``,
    ``out_proj.weight (E, E)``, ``out_proj.bias (E)``. A bool mask has the opposite sense: here True = attend. A query that may
    see no key gets the output bias, not NaN. Cost 8·n·E² + 4·n·m·E floating-point operations per sequence.

    References
    ----------
    Vaswani et al. 2017, section 3.2.2.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import MultiHeadAttention
    >>> layer = MultiHeadAttention(16, 4)
    >>> x = np.random.default_rng(0).normal(size=(2, 5, 16))
    >>> layer(x, causal=True).shape
    (2, 5, 16)
    >>> sorted(layer.backward(np.ones((2, 5, 16))))
    ['in_proj_bias', 'in_proj_weight', 'out_proj.bias', 'out_proj.weight', 'query']
    """

    def __init__(self, embed_dim: int, num_heads: int, *, bias: bool = True, dtype: Any = "float32", seed: int = 0) -> None:
        super().__init__(dtype)
        if num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ParameterError(f"num_heads: expected a divisor of embed_dim = {embed_dim}, got {num_heads}")
        self.embed_dim, self.num_heads = embed_dim, num_heads
        rng = np.random.default_rng(seed)
        self._set(
            in_proj_weight=glorot(rng, 3 * embed_dim, embed_dim),
            out_proj__weight=uniform(rng, embed_dim, embed_dim),
        )
        if bias:
            self._set(in_proj_bias=np.zeros(3 * embed_dim), out_proj__bias=np.zeros(embed_dim))

    def __call__(
        self,
        query: Any,
        key: Any = None,
        value: Any = None,
        mask: Any = None,
        *,
        causal: bool | str = False,
        need_weights: bool = False,
    ) -> Array | AttentionOutput:
        """Attend.

        Parameters
        ----------
        query : array_like, shape (b, n, E)
        key, value : array_like, shape (b, m, E), optional
            Default: the query; `value` defaults to the key.
        mask : array_like, shape (n, m), (b, h, n, m) or (b, 1, n, m), optional
            bool: True = attend. float: added to the scaled logits.
        causal : bool, "top_left" or "bottom_right", default False
        need_weights : bool, default False
            Return an `AttentionOutput` with the weights of each head, ``(b, h, n, m)``.
        """
        given = {"query": query, "key": key, "value": value}
        given["key"] = given["query"] if key is None else key
        given["value"] = given["key"] if value is None else value
        inputs = {name: self._input(name, x, 3, self.embed_dim) for name, x in given.items()}
        b, m = inputs["key"].shape[:2]
        if inputs["value"].shape[:2] != (b, m) or 1 != b != inputs["query"].shape[0] != 1:
            raise ShapeError(f"inputs do not fit: {quote(tuple(inputs), tuple(inputs.values()))}")
        if mask is not None:
            mask = view("mask", mask)
            if mask.dtype.kind == "f":
                if not is_float(mask):
                    raise DTypeError(f"mask: expected bool, float32 or float64, got {mask.dtype}")
                mask = np.asarray(mask, dtype=self.dtype)
        p, h = self._parameters, self.num_heads
        weights = np.split(p["in_proj_weight"], 3)
        biases = np.split(p["in_proj_bias"], 3) if "in_proj_bias" in p else [None] * 3
        q, k, v = (split_heads(linear(x, w, b), h) for x, w, b in zip(inputs.values(), weights, biases, strict=True))
        o = operands(q, k, v, scale=None, mask=mask)
        rule = with_mask(o, causal_code(causal))
        attended = forward(o, rule, weights=need_weights)
        context = join_heads(attended.out if isinstance(attended, AttentionOutput) else attended)
        out = linear(context, p["out_proj.weight"], p.get("out_proj.bias"))

        def pull(dout: Array) -> Gradients:
            dcontext, dweight, dbias = linear_vjp(context, p["out_proj.weight"], cotangent(dout, out.shape, out.dtype))
            grads: Gradients = {"out_proj.weight": dweight}
            g = pullback(o, rule)(split_heads(dcontext, h))
            into_weight, into_bias = [], []
            for (name, x), w, part in zip(inputs.items(), weights, (g["q"], g["k"], g["v"]), strict=True):
                dx, dw, db = linear_vjp(x, w, join_heads(part))
                into_weight.append(dw)
                into_bias.append(db)
                # Inputs that were not given are the query (or the key): their gradients belong there.
                owner = name
                if name == "value" and value is None:
                    owner = "key"
                if owner == "key" and key is None:
                    owner = "query"
                grads[owner] = grads[owner] + dx if owner in grads else dx
            grads["in_proj_weight"] = np.concatenate(into_weight)
            if "in_proj_bias" in p:
                grads["in_proj_bias"] = np.concatenate(into_bias)
                grads["out_proj.bias"] = dbias
            if "mask" in g:
                grads["mask"] = g["mask"]
            return grads

        self._pullback = pull
        if isinstance(attended, AttentionOutput):
            return AttentionOutput(out, None, attended.weights)
        return out

    def __repr__(self) -> str:
        """Sizes."""
        return f"MultiHeadAttention({self.embed_dim}, {self.num_heads}, dtype='{self.dtype}')"
