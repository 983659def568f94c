"""Mixture of attention heads: a router picks a few experts per token."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, cotangent, floats, quote
from sona.attention._errors import ParameterError
from sona.attention._module import Module, linear, linear_vjp, uniform
from sona.attention._softmax import causal_code, forward, operands, pullback, with_mask
from sona.attention._vjp import Gradients
from sona.attention.multi_head import join_heads, split_heads
from sona.exceptions import ShapeError

__all__ = ["MoEAttention", "RouteOutput", "moe_route"]


class RouteOutput(NamedTuple):
    """Which experts each token goes to."""

    index: Array  # type: ignore[assignment]  # the public name is part of the design; it hides tuple.index
    """int64 ``(…, top_k)``, by decreasing logit, ties lower index."""
    gate: Array
    """Weights of the chosen experts, ``(…, top_k)``."""
    aux_loss: float
    """E·Σ f_e·P_e: `top_k` when the load is even (Switch Transformer, equations 4 to 6)."""
    z_loss: float
    """Mean squared log-sum-exp of the logits."""


class _Route(NamedTuple):
    """A routing, how its choices are sorted, and what its gradient needs."""

    result: RouteOutput
    probabilities: Array
    """``(E, tokens)``"""
    order: Array
    """All choices, numbered by place and then token, sorted by expert."""
    ends: list[int]
    """Where those of each expert end."""


def _route(x: Array, weight: Array, top_k: int, norm: str) -> _Route:
    logits = np.ascontiguousarray(x @ weight.T)
    index, gate, p, aux, z, order, ends = _core.route_experts(logits, top_k, norm == "selected")
    shape = (*logits.shape[:-1], top_k)
    return _Route(RouteOutput(index.reshape(shape), gate.reshape(shape), aux, z), p.reshape(len(weight), -1), order, ends)


def _check_route(top_k: int, experts: int, norm: str) -> None:
    if not 1 <= top_k <= experts:
        raise ParameterError(f"top_k: expected 1 to {experts}, got {top_k}")
    if norm not in ("selected", "full"):
        raise ParameterError(f"norm: expected 'selected' or 'full', got {norm!r}")


def moe_route(x: Any, weight: Any, *, top_k: int, norm: str = "selected") -> RouteOutput:
    """Send each token to its `top_k` best experts.

    Parameters
    ----------
    x : array_like, shape (…, D), float32 or float64
    weight : array_like, shape (E, D)
        One row per expert; logits are ``x @ weight.T``.
    top_k : int
        1 to E.
    norm : {"selected", "full"}, default "selected"
        Gates are the softmax of the selected logits, or the selected entries of the full softmax.

    Returns
    -------
    RouteOutput

    References
    ----------
    Shazeer et al. 2017; Fedus et al. 2021 (auxiliary loss).

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import moe_route
    >>> moe_route(np.array([[3.0, 1.0, 2.0]]), np.eye(3), top_k=2).index
    array([[0, 2]])
    """
    x, weight = floats(("x", "weight"), (x, weight))
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ShapeError(f"expected x (…, D) and weight (E, D), got {quote(('x', 'weight'), (x, weight))}")
    _check_route(top_k, weight.shape[0], norm)
    return _route(x, weight, top_k, norm).result


def _groups(ends: list[int]) -> list[slice]:
    """The stretch of each expert."""
    return [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]


class MoEAttention(Module):
    """Attention whose query and output projections are experts: y = Σ_e gate_e·Attention(x·W_q^e, K, V)·W_o^e + b.

    Keys and values are shared by all experts.

    Parameters
    ----------
    embed_dim : int
        Width D of input and output.
    hidden_dim : int
        Width of queries, keys and values of one expert; a multiple of `num_kv_heads`.
    num_experts : int
        E.
    top_k : int, default 2
        Experts per token, 1 to E.
    num_kv_heads : int, default 1
        Heads within `hidden_dim`.
    norm : {"selected", "full"}, default "selected"
        As in `moe_route`.
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0

    Notes
    -----
    Parameters: ``kv_proj.weight (2·hidden, D)``, ``router.weight (E, D)``, ``input_linear.weight (E, hidden, D)``,
    ``output_linear.weight (E, D, hidden)``, ``bias (D)``. Tokens are sorted by expert, so that each projection is one
    product of matrices. The gradient holds the chosen experts fixed.

    References
    ----------
    Zhang et al. 2022, "Mixture of Attention Heads", equations 5 to 8.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import MoEAttention
    >>> layer = MoEAttention(8, 4, num_experts=3)
    >>> layer(np.ones((1, 5, 8))).shape, layer.last_route.index.shape
    ((1, 5, 8), (1, 5, 2))
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        top_k: int = 2,
        num_kv_heads: int = 1,
        norm: str = "selected",
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(dtype)
        if embed_dim < 1 or num_experts < 1:
            raise ParameterError(f"embed_dim and num_experts: expected at least 1, got {embed_dim} and {num_experts}")
        if num_kv_heads < 1 or hidden_dim < 1 or hidden_dim % num_kv_heads:
            raise ParameterError(f"num_kv_heads: expected a divisor of hidden_dim = {hidden_dim}, got {num_kv_heads}")
        _check_route(top_k, num_experts, norm)
        self.embed_dim, self.hidden_dim, self.num_experts = embed_dim, hidden_dim, num_experts
        self.top_k, self.num_kv_heads, self.norm = top_k, num_kv_heads, norm
        self.last_route: RouteOutput | None = None
        rng = np.random.default_rng(seed)
        experts = range(num_experts)
        self._set(
            kv_proj__weight=uniform(rng, 2 * hidden_dim, embed_dim),
            router__weight=uniform(rng, num_experts, embed_dim),
            input_linear__weight=np.stack([uniform(rng, hidden_dim, embed_dim) for _ in experts]),
            output_linear__weight=np.stack([uniform(rng, embed_dim, hidden_dim) for _ in experts]),
            bias=np.zeros(embed_dim),
        )

    def _by_expert(self, x: Array, name: str, order: Array, ends: list[int]) -> Array:
        """Products of the choices with the weights of their experts; choice i has row i of x, counted around."""
        weights = self._parameters[name]
        done = _core.rows_by_expert(x, weights, order, ends)
        if done is not None:
            return done.reshape(len(order), -1)
        rows = x[order % len(x)] if len(x) else x
        out = np.empty((len(order), len(weights[0])), dtype=self.dtype)
        out[order] = np.concatenate([linear(rows[group], w) for group, w in zip(_groups(ends), weights, strict=True)])
        return out

    def __call__(self, x: Any, *, causal: bool | str = True) -> Array:
        """Attend within ``x (b, n, D)``; the routing is kept in ``last_route``."""
        x = self._input("x", x, 3, self.embed_dim)
        p, top_k, heads = self._parameters, self.top_k, self.num_kv_heads
        b, n, width = x.shape
        route = _route(x, p["router.weight"], top_k, self.norm)
        self.last_route = route.result
        order, ends = route.order, route.ends
        tokens = x.reshape(-1, width)
        # Choices stand as a leading axis: they share keys and values.
        queries = self._by_expert(tokens, "input_linear.weight", order, ends)
        kv = linear(x, p["kv_proj.weight"])
        k, v = (split_heads(part, heads) for part in (kv[..., : self.hidden_dim], kv[..., self.hidden_dim :]))
        q = split_heads(queries.reshape(top_k, b, n, self.hidden_dim), heads)
        o = operands(q, k, v, scale=None)
        rule = with_mask(o, causal_code(causal))
        context = join_heads(np.asarray(forward(o, rule))).reshape(queries.shape)
        gate = np.ascontiguousarray(route.result.gate.reshape(-1, top_k).T)
        projected = self._by_expert(context, "output_linear.weight", order, ends).reshape(top_k, b * n, width)
        out = p["bias"] + gate[0, :, None] * projected[0]
        for place in range(1, top_k):
            out += gate[place, :, None] * projected[place]
        out = np.asarray(out).reshape(b, n, width)

        def pull(dout: Array) -> Gradients:
            d = cotangent(dout, out.shape, out.dtype).reshape(-1, width)
            dgate = (projected * d).sum(axis=-1).T
            rows = order % (b * n) if b * n else order
            groups, chosen = _groups(ends), context[order]
            dcontext = np.empty_like(context)
            weighted = gate.reshape(-1)[order, None] * d[rows]
            dw_out, dw_in = (np.zeros_like(p[f"{name}_linear.weight"]) for name in ("output", "input"))
            for e, group in enumerate(groups):
                dw_out[e] = weighted[group].T @ chosen[group]
                dcontext[order[group]] = weighted[group] @ p["output_linear.weight"][e]
            g = pullback(o, rule)(split_heads(dcontext.reshape(top_k, b, n, self.hidden_dim), heads))
            dqueries = join_heads(g["q"]).reshape(queries.shape)
            dx = np.zeros_like(tokens)
            for e, group in enumerate(groups):
                dq = dqueries[order[group]]
                dw_in[e] = dq.T @ tokens[rows[group]]
                # A token has an expert once at most: plain addition is right.
                dx[rows[group]] += dq @ p["input_linear.weight"][e]
            dkv = np.concatenate([join_heads(g["k"]), join_heads(g["v"])], axis=-1)
            dx_kv, dw_kv, _ = linear_vjp(x, p["kv_proj.weight"], dkv)
            dlogits = self._pull_gate(route, dgate)
            dx_route, dw_route, _ = linear_vjp(tokens, p["router.weight"], dlogits)
            return {
                "x": dx_kv + (dx + dx_route).reshape(x.shape),
                "kv_proj.weight": dw_kv,
                "router.weight": dw_route,
                "input_linear.weight": dw_in,
                "output_linear.weight": dw_out,
                "bias": d.sum(axis=0),
            }

        self._pullback = pull
        return out

    def _pull_gate(self, route: _Route, dgate: Array) -> Array:
        """∂L/∂logits ``(tokens, E)``."""
        index = route.result.index.reshape(-1, self.top_k)
        gate = route.result.gate.reshape(-1, self.top_k)
        inner = (dgate * gate).sum(axis=1, keepdims=True)
        dlogits = np.zeros((len(index), self.num_experts), dtype=self.dtype)
        if self.norm == "selected":
            np.put_along_axis(dlogits, index, gate * (dgate - inner), axis=1)
            return dlogits
        np.put_along_axis(dlogits, index, gate * dgate, axis=1)
        return np.asarray(dlogits - route.probabilities.T * inner, dtype=self.dtype)

    def __repr__(self) -> str:
        """Sizes."""
        return f"MoEAttention({self.embed_dim}, {self.hidden_dim}, {self.num_experts}, top_k={self.top_k})"
