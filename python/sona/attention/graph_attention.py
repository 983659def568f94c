"""Attention of the nodes of a graph to their neighbours: GAT and GATv2."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from sona.attention._arrays import Array, check_finite_number, cotangent
from sona.attention._module import linear, linear_vjp
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.attention.graph import count, fit, inputs, sorted_edges, wide
from sona.exceptions import ShapeError

__all__ = ["GATOutput", "gat_conv", "gatv2_conv"]


class GATOutput(NamedTuple):
    """Graph attention with its weights."""

    out: Array
    """``(n, H·C)``, or ``(n, C)`` with ``concat=False``."""
    edge_index: Array
    """int64 ``(2, E')``: with self loops added, the given edges without theirs, in order, then (i, i) for every node."""
    alpha: Array
    """Weights ``(E', H)``; those of the edges into a node sum to 1."""


class _Attention:
    """One call of either kind: output and weights now, gradients when asked for."""

    def __init__(
        self,
        a: dict[str, Array],
        left: str,
        edge_index: Any,
        *,
        heads: int,
        concat: bool,
        negative_slope: float,
        add_self_loops: bool,
    ) -> None:
        self.a, self.heads, self.concat = a, count("heads", heads, 1), concat
        self.n, features, self.outputs = wide(a, left)
        if self.outputs == 0 or self.outputs % self.heads:
            raise ShapeError(f"{left}: expected a multiple of heads = {self.heads} rows, got {a[left].shape}")
        self.width = self.outputs // self.heads
        each = (self.heads, self.width)
        fit(
            a,
            weight_r=(self.outputs, features),
            bias_l=(self.outputs,),
            bias_r=(self.outputs,),
            att_src=each,
            att_dst=each,
            att=each,
            bias=(self.outputs if concat else self.width,),
        )
        self.slope = check_finite_number("negative_slope", negative_slope)
        self.graph = sorted_edges(edge_index, self.n, loops=add_self_loops)
        self.dynamic = "att" in a
        self.h = linear(a["x"], a[left], a.get("bias_l"))
        self.given = self._operands()
        out, self.alpha = self.graph.attend(self.given, self.heads, self.slope, self.dynamic)
        self.out = self._joined(out)

    def _operands(self) -> list[Array]:
        a = self.a
        if self.dynamic:
            return [self.h, linear(a["x"], a["weight_r"], a.get("bias_r")), a["att"].reshape(-1)]
        # Both logits of all heads by one product: column h holds att_src of head h at its values, column H + h att_dst.
        blocks = np.zeros((self.outputs, 2 * self.heads), dtype=self.h.dtype)
        value = np.arange(self.outputs)
        head = value // self.width
        blocks[value, head], blocks[value, self.heads + head] = a["att_src"].ravel(), a["att_dst"].ravel()
        source, target = np.ascontiguousarray((self.h @ blocks).T.reshape(2, self.heads, self.n).transpose(0, 2, 1))
        return [self.h, source, target]

    def _joined(self, out: Array) -> Array:
        if self.concat:
            out = out.reshape(self.n, self.outputs)
        else:
            out = out.reshape(self.n, self.heads, self.width).mean(axis=1, dtype=out.dtype)
        if "bias" in self.a:
            out += self.a["bias"]
        return out

    def result(self, return_attention: bool) -> Array | GATOutput:
        """The output, and the weights by edge where asked for."""
        if not return_attention:
            return self.out
        alpha = np.empty((len(self.graph.numbers()), self.heads), dtype=self.h.dtype)
        alpha[self.graph.numbers()] = self.alpha.reshape(alpha.shape)
        return GATOutput(self.out, np.stack(self.graph.list()), alpha)

    def pullback(self, dout: Any) -> Gradients:
        """Gradients of all arrays."""
        a, shape = self.a, (self.n, self.heads, self.width)
        d = cotangent(dout, self.out.shape, self.h.dtype)
        grads: Gradients = {"bias": d.sum(axis=0)} if "bias" in a else {}
        d = d if self.concat else np.broadcast_to(d[:, None] / self.heads, shape)
        first, second, third = self.graph.attend_vjp(
            self.given, self.heads, self.slope, self.dynamic, self.alpha, np.ascontiguousarray(d).reshape(-1)
        )
        if self.dynamic:
            right = second.reshape(self.h.shape)
            grads["att"] = third.reshape(a["att"].shape)
            dx, grads["weight_r"], bias = linear_vjp(a["x"], a["weight_r"], right)
            if "bias_r" in a:
                grads["bias_r"] = bias
            left, name = first.reshape(self.h.shape), "weight_l"
        else:
            split = self.h.reshape(shape)
            dsource, dtarget = second.reshape(self.n, self.heads, 1), third.reshape(self.n, self.heads, 1)
            grads["att_src"] = np.einsum("nhc,nh->hc", split, dsource[:, :, 0])
            grads["att_dst"] = np.einsum("nhc,nh->hc", split, dtarget[:, :, 0])
            left = first.reshape(shape) + dsource * a["att_src"] + dtarget * a["att_dst"]
            left, name, dx = left.reshape(self.h.shape), "weight", np.zeros_like(a["x"])
        dleft, grads[name], bias = linear_vjp(a["x"], a[name], left)
        if "bias_l" in a:
            grads["bias_l"] = bias
        grads["x"] = dx + dleft
        return grads


def _gat(x: Any, edge_index: Any, weight: Any, att_src: Any, att_dst: Any, bias: Any, options: dict[str, Any]) -> _Attention:
    return _Attention(inputs(x=x, weight=weight, att_src=att_src, att_dst=att_dst, bias=bias), "weight", edge_index, **options)


def gat_conv(
    x: Any,
    edge_index: Any,
    weight: Any,
    att_src: Any,
    att_dst: Any,
    bias: Any = None,
    *,
    heads: int = 1,
    concat: bool = True,
    negative_slope: float = 0.2,
    add_self_loops: bool = True,
    return_attention: bool = False,
) -> Array | GATOutput:
    """Graph attention: every node gathers its neighbours' features, weighted by a softmax over its incoming edges.

    Parameters
    ----------
    x : array_like, shape (n, F), float32 or float64
        Features of the nodes.
    edge_index : array_like of int, shape (2, E)
        Row 0 sources, row 1 targets. Edges that are there twice count twice.
    weight : array_like, shape (H·C, F)
        Projection: h = x·weightᵀ, split into H heads of C.
    att_src, att_dst : array_like, shape (H, C)
        Logit of the edge j → i: LeakyReLU(att_src·h_j + att_dst·h_i), per head.
    bias : array_like, shape (H·C,), or (C,) with ``concat=False``, optional
    heads : int, default 1
        H.
    concat : bool, default True
        Concatenate the heads; False: their mean.
    negative_slope : float, default 0.2
        Slope of LeakyReLU below 0.
    add_self_loops : bool, default True
        Drop the given self loops, then add one for every node.
    return_attention : bool, default False
        Return a `GATOutput` with the weights of all edges.

    Returns
    -------
    ndarray, shape (n, H·C) or (n, C), or GATOutput
        A node without incoming edges gets the bias.

    Raises
    ------
    ShapeError
        Shapes do not fit.
    DTypeError
        Not float32 or float64; ``edge_index`` not of integers.
    GraphError
        A node out of range, or ``edge_index`` not of shape (2, E).
    ParameterError
        ``heads`` below 1.

    Notes
    -----
    O(n·F·H·C + E·H·C) time, O((n·C + E)·H) memory.

    References
    ----------
    Veličković et al. 2018, "Graph Attention Networks", equations 1 to 6.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import gat_conv
    >>> x = np.array([[1.0], [3.0]])
    >>> gat_conv(x, [[0], [1]], np.eye(1), np.zeros((1, 1)), np.zeros((1, 1)))
    array([[1.],
           [2.]])
    """
    options = {
        "heads": heads,
        "concat": concat,
        "negative_slope": negative_slope,
        "add_self_loops": add_self_loops,
    }
    return _gat(x, edge_index, weight, att_src, att_dst, bias, options).result(return_attention)


@differentiable(gat_conv)
def _gat_vjp(
    x: Any,
    edge_index: Any,
    weight: Any,
    att_src: Any,
    att_dst: Any,
    bias: Any = None,
    *,
    return_attention: bool = False,
    **options: Any,
) -> tuple[Array | GATOutput, Pullback]:
    call = _gat(x, edge_index, weight, att_src, att_dst, bias, _DEFAULTS | options)
    return call.result(return_attention), call.pullback


_DEFAULTS: dict[str, Any] = {"heads": 1, "concat": True, "negative_slope": 0.2, "add_self_loops": True}


def _gatv2(x: Any, edge_index: Any, parameters: dict[str, Any], options: dict[str, Any]) -> _Attention:
    return _Attention(inputs(x=x, **parameters), "weight_l", edge_index, **options)


def gatv2_conv(
    x: Any,
    edge_index: Any,
    weight_l: Any,
    bias_l: Any,
    weight_r: Any,
    bias_r: Any,
    att: Any,
    bias: Any = None,
    *,
    heads: int = 1,
    concat: bool = True,
    negative_slope: float = 0.2,
    add_self_loops: bool = True,
    return_attention: bool = False,
) -> Array | GATOutput:
    """Graph attention with a dynamic score: which neighbour matters most may differ from node to node.

    Parameters
    ----------
    x : array_like, shape (n, F), float32 or float64
    edge_index : array_like of int, shape (2, E)
        Row 0 sources, row 1 targets.
    weight_l, weight_r : array_like, shape (H·C, F)
        Projections of sources and of targets.
    bias_l, bias_r : array_like, shape (H·C,), or None
        Their biases.
    att : array_like, shape (H, C)
        Logit of the edge j → i: att·LeakyReLU(l_j + r_i), per head.
    bias : array_like, shape (H·C,), or (C,) with ``concat=False``, optional
    heads, concat, negative_slope, add_self_loops, return_attention
        As in `gat_conv`.

    Returns
    -------
    ndarray, shape (n, H·C) or (n, C), or GATOutput
        Weighted sums of the sources' projections, plus the bias.

    Raises
    ------
    ShapeError, DTypeError, GraphError, ParameterError
        As in `gat_conv`.

    Notes
    -----
    O(n·F·H·C + E·H·C) time.

    References
    ----------
    Brody, Alon & Yahav 2022, "How Attentive are Graph Attention Networks?", equation 7.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import gatv2_conv
    >>> x, one, zero = np.array([[1.0], [3.0]]), np.eye(1), np.zeros(1)
    >>> gatv2_conv(x, [[0], [1]], one, zero, one, zero, np.zeros((1, 1)))
    array([[1.],
           [2.]])
    """
    parameters = {
        "weight_l": weight_l,
        "bias_l": bias_l,
        "weight_r": weight_r,
        "bias_r": bias_r,
        "att": att,
        "bias": bias,
    }
    options = {
        "heads": heads,
        "concat": concat,
        "negative_slope": negative_slope,
        "add_self_loops": add_self_loops,
    }
    return _gatv2(x, edge_index, parameters, options).result(return_attention)


@differentiable(gatv2_conv)
def _gatv2_vjp(
    x: Any,
    edge_index: Any,
    weight_l: Any,
    bias_l: Any,
    weight_r: Any,
    bias_r: Any,
    att: Any,
    bias: Any = None,
    *,
    return_attention: bool = False,
    **options: Any,
) -> tuple[Array | GATOutput, Pullback]:
    parameters = {
        "weight_l": weight_l,
        "bias_l": bias_l,
        "weight_r": weight_r,
        "bias_r": bias_r,
        "att": att,
        "bias": bias,
    }
    call = _gatv2(x, edge_index, parameters, _DEFAULTS | options)
    return call.result(return_attention), call.pullback
