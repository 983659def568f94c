"""Sums and means over the neighbours of the nodes of a graph: GCN, GraphSAGE, and sampling of neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from sona import _core
from sona.attention._arrays import Array, allotted, cotangent, integers
from sona.attention._errors import GraphError, ParameterError
from sona.attention._module import linear, linear_vjp
from sona.attention._vjp import Gradients, Pullback, differentiable
from sona.attention.graph import count, edges, fit, inputs, key, sorted_edges, wide
from sona.exceptions import ShapeError

__all__ = ["NeighborSample", "gcn_conv", "sage_conv", "sample_neighbors"]


class _Laplacian:
    """D^-½·A·D^-½ with the self loops of GCN, entry by entry, and how its entries depend on the edges' weights."""

    def __init__(self, edge_index: Any, n: int, weight: Array | None, dtype: Any, *, loops: bool, improved: bool) -> None:
        pairs = edges(edge_index)
        if weight is not None:
            if weight.shape != (pairs.shape[1],):
                raise ShapeError(f"edge_weight: expected shape ({pairs.shape[1]},), got {weight.shape}")
            if (weight < 0.0).any():
                raise ParameterError("edge_weight: expected no negative weights")
        self.graph = _core.GraphEdges(n, pairs, loops)
        self.source, self.target = self.graph.list()
        # Which given weight each entry has; −1: the weight of a loop that was added.
        self.given = np.arange(pairs.shape[1])
        if loops:
            own = pairs[0] == pairs[1]
            loop = np.full(n, -1)
            loop[pairs[0][own]] = self.given[own]  # of several loops the last counts
            self.given = np.concatenate([self.given[~own], loop])
        self.weight = np.ones(len(self.given)) if weight is None else np.append(weight, 0.0)[self.given]
        self.weight[self.given < 0] = 2.0 if improved else 1.0
        degree = np.bincount(self.target, self.weight, minlength=n)
        with np.errstate(divide="ignore"):
            self.root = np.where(degree > 0.0, degree**-0.5, 0.0)
        self.entries = (self.root[self.source] * self.weight * self.root[self.target]).astype(dtype)

    def weight_vjp(self, dentries: Array, size: int) -> Array:
        """Gradient of the given weights from that of the entries."""
        source, target = self.root[self.source], self.root[self.target]
        both = dentries.astype(np.float64) * self.weight
        n = len(self.root)
        droot = np.bincount(self.target, both * source, minlength=n) + np.bincount(self.source, both * target, minlength=n)
        ddegree = -0.5 * droot * self.root**3
        dweight = dentries * source * target + ddegree[self.target]
        out = np.zeros(size)
        there = self.given >= 0
        out[self.given[there]] = dweight[there]
        return out


class _Gcn:
    def __init__(self, a: dict[str, Array], edge_index: Any, *, add_self_loops: bool, improved: bool) -> None:
        self.a = a
        n, features, outputs = wide(a, "weight")
        fit(a, bias=(outputs,))
        self.matrix = _Laplacian(edge_index, n, a.get("edge_weight"), a["x"].dtype, loops=add_self_loops, improved=improved)
        # Whichever is narrower is gathered.
        self.first = outputs <= features
        self.h = linear(a["x"], a["weight"]) if self.first else self._apply(a["x"])
        self.out = self._apply(self.h) if self.first else linear(self.h, a["weight"])
        if "bias" in a:
            self.out += a["bias"]

    def _apply(self, x: Array, back: bool = False) -> Array:
        return self.matrix.graph.sum(self.matrix.entries, np.ascontiguousarray(x), back).reshape(x.shape)

    def pullback(self, dout: Any) -> Gradients:
        a = self.a
        d = cotangent(dout, self.out.shape, self.out.dtype)
        grads: Gradients = {"bias": d.sum(axis=0)} if "bias" in a else {}
        if self.first:
            grads["x"], grads["weight"], _ = linear_vjp(a["x"], a["weight"], self._apply(d, back=True))
            ends = (d, self.h)
        else:
            dh, grads["weight"], _ = linear_vjp(self.h, a["weight"], d)
            dh = np.ascontiguousarray(dh)
            grads["x"] = self._apply(dh, back=True)
            ends = (dh, a["x"])
        if "edge_weight" in a:
            dentries = self.matrix.graph.inner_products(*ends)
            given = a["edge_weight"]
            grads["edge_weight"] = self.matrix.weight_vjp(dentries, len(given)).astype(given.dtype)
        return grads


def gcn_conv(
    x: Any,
    edge_index: Any,
    weight: Any,
    bias: Any = None,
    edge_weight: Any = None,
    *,
    add_self_loops: bool = True,
    improved: bool = False,
) -> Array:
    """Graph convolution: D^-½·A·D^-½·x·Wᵀ + b, A with self loops, D its weighted in-degrees.

    Parameters
    ----------
    x : array_like, shape (n, F), float32 or float64
    edge_index : array_like of int, shape (2, E)
        Row 0 sources, row 1 targets. Edges that are there twice add up.
    weight : array_like, shape (out, F)
    bias : array_like, shape (out,), optional
    edge_weight : array_like, shape (E,), optional
        At least 0; default 1.
    add_self_loops : bool, default True
        Give each node without a self loop one of weight 1. Loops that are there keep their weight, the last one if several.
    improved : bool, default False
        Added loops weigh 2.

    Returns
    -------
    ndarray, shape (n, out)
        A node of degree 0 gets the bias.

    Raises
    ------
    ShapeError, DTypeError, GraphError
        As in `gat_conv`.
    ParameterError
        A negative weight.

    Notes
    -----
    O(n·F·out + E·min(F, out)).

    References
    ----------
    Kipf & Welling 2017, "Semi-Supervised Classification with Graph Convolutional Networks", equation 2.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import gcn_conv
    >>> gcn_conv(np.array([[1.0], [3.0]]), [[0, 1], [1, 0]], np.eye(1))
    array([[2.],
           [2.]])
    """
    a = inputs(x=x, weight=weight, bias=bias, edge_weight=edge_weight)
    return _Gcn(a, edge_index, add_self_loops=add_self_loops, improved=improved).out


@differentiable(gcn_conv)
def _gcn_vjp(
    x: Any,
    edge_index: Any,
    weight: Any,
    bias: Any = None,
    edge_weight: Any = None,
    *,
    add_self_loops: bool = True,
    improved: bool = False,
) -> tuple[Array, Pullback]:
    a = inputs(x=x, weight=weight, bias=bias, edge_weight=edge_weight)
    call = _Gcn(a, edge_index, add_self_loops=add_self_loops, improved=improved)
    return call.out, call.pullback


_LEAST_NORM = 1e-12


class _Sage:
    def __init__(
        self, a: dict[str, Array], edge_index: Any, *, aggr: str, normalize: bool, fanout: int | None, seed: int
    ) -> None:
        if aggr not in ("mean", "max", "sum"):
            raise ParameterError(f"aggr: expected mean, max or sum, got {aggr!r}")
        self.a, self.aggr, self.normalize = a, aggr, normalize
        n, features, outputs = wide(a, "weight_l")
        fit(a, weight_r=(outputs, features), bias_l=(outputs,))
        self.graph = sorted_edges(edge_index, n, loops=False)
        if fanout is not None:
            self.graph = self.graph.thinned(count("fanout", fanout, 0), key(seed))
        degree = np.maximum(self.graph.degrees(), 1)
        per_edge = 1.0 / degree[self.graph.list()[1]] if aggr == "mean" else np.ones(int(self.graph.numbers().size))
        self.entries = per_edge.astype(a["x"].dtype)
        # Sums may be taken after the projection, where that is narrower; maxima may not.
        self.first = aggr != "max" and outputs < features
        if self.first:
            # Both products read x: one reads it once.
            both = linear(a["x"], np.concatenate([a["weight_l"], a["weight_r"]]))
            self.h, own = np.ascontiguousarray(both[:, :outputs]), both[:, outputs:]
            out = self._gather(self.h)
        else:
            self.h, own = self._gather(a["x"]), linear(a["x"], a["weight_r"])
            out = linear(self.h, a["weight_l"])
        if "bias_l" in a:
            out += a["bias_l"]
        out += own
        if normalize:
            self.norm = np.maximum(np.sqrt((out * out).sum(axis=1, keepdims=True)), _LEAST_NORM)
            out /= self.norm
        self.out = out

    def _gather(self, x: Array) -> Array:
        if self.aggr == "max":
            return self.graph.largest(x).reshape(x.shape)
        return self.graph.sum(self.entries, np.ascontiguousarray(x), False).reshape(x.shape)

    def _gather_vjp(self, d: Array) -> Array:
        d = np.ascontiguousarray(d)
        if self.aggr == "max":
            return self.graph.largest_vjp(self.a["x"], self.h, d).reshape(d.shape)
        return self.graph.sum(self.entries, d, True).reshape(d.shape)

    def pullback(self, dout: Any) -> Gradients:
        a = self.a
        d = cotangent(dout, self.out.shape, self.out.dtype)
        if self.normalize:
            # Below the least norm the divisor is constant.
            along = (d * self.out).sum(axis=1, keepdims=True) * (self.norm > _LEAST_NORM)
            d = (d - self.out * along) / self.norm
        grads: Gradients = {"bias_l": d.sum(axis=0)} if "bias_l" in a else {}
        dx, grads["weight_r"], _ = linear_vjp(a["x"], a["weight_r"], d)
        if self.first:
            own, grads["weight_l"], _ = linear_vjp(a["x"], a["weight_l"], self._gather_vjp(d))
        else:
            dh, grads["weight_l"], _ = linear_vjp(self.h, a["weight_l"], d)
            own = self._gather_vjp(dh)
        grads["x"] = dx + own
        return grads


def sage_conv(
    x: Any,
    edge_index: Any,
    weight_l: Any,
    bias_l: Any,
    weight_r: Any,
    *,
    aggr: str = "mean",
    normalize: bool = False,
    fanout: int | None = None,
    seed: int = 0,
) -> Array:
    """GraphSAGE: W_l·aggregate of the neighbours + b_l + W_r·the node itself.

    Parameters
    ----------
    x : array_like, shape (n, F), float32 or float64
    edge_index : array_like of int, shape (2, E)
        Row 0 sources, row 1 targets: node i aggregates the sources of the edges that end in i.
    weight_l, weight_r : array_like, shape (out, F)
    bias_l : array_like, shape (out,), or None
    aggr : {"mean", "max", "sum"}, default "mean"
        Element by element; without neighbours 0.
    normalize : bool, default False
        Divide each row of the result by its 2-norm (at least 1e-12).
    fanout : int, optional
        Aggregate at most that many edges of each node, drawn without replacement; default all.
    seed : int, default 0
        Of the draw; that of a node depends on the seed and the node only.

    Returns
    -------
    ndarray, shape (n, out)

    Raises
    ------
    ShapeError, DTypeError, GraphError
        As in `gat_conv`.
    ParameterError
        An unknown ``aggr``, a negative ``fanout``.

    Notes
    -----
    O(n·F·out + E·min(F, out)); for "max" E·F. Its gradient goes to the first of several equal maxima.

    References
    ----------
    Hamilton, Ying & Leskovec 2017, "Inductive Representation Learning on Large Graphs", algorithm 1.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import sage_conv
    >>> x = np.array([[1.0], [3.0], [5.0]])
    >>> sage_conv(x, [[0, 1], [2, 2]], np.eye(1), None, np.zeros((1, 1)))
    array([[0.],
           [0.],
           [2.]])
    """
    a = inputs(x=x, weight_l=weight_l, bias_l=bias_l, weight_r=weight_r)
    return _Sage(a, edge_index, aggr=aggr, normalize=normalize, fanout=fanout, seed=seed).out


@differentiable(sage_conv)
def _sage_vjp(
    x: Any,
    edge_index: Any,
    weight_l: Any,
    bias_l: Any,
    weight_r: Any,
    *,
    aggr: str = "mean",
    normalize: bool = False,
    fanout: int | None = None,
    seed: int = 0,
) -> tuple[Array, Pullback]:
    a = inputs(x=x, weight_l=weight_l, bias_l=bias_l, weight_r=weight_r)
    call = _Sage(a, edge_index, aggr=aggr, normalize=normalize, fanout=fanout, seed=seed)
    return call.out, call.pullback


class NeighborSample(NamedTuple):
    """Sampled surroundings of some nodes."""

    nodes: Array
    """int64: the seeds, then each new node once."""
    edge_index: Array
    """int64 ``(2, K)``: sources and targets of the sampled edges, numbers of the whole graph."""
    hop: Array
    """int64 ``(K,)``: the hop in which each edge was drawn, from 0."""


def sample_neighbors(edge_index: Any, nodes: Any, fanouts: Sequence[int], *, num_nodes: int, seed: int = 0) -> NeighborSample:
    """Draw incoming edges of some nodes, then of the nodes found, hop by hop; every node is expanded once.

    Parameters
    ----------
    edge_index : array_like of int, shape (2, E)
    nodes : array_like of int, shape (k,)
        Where to start.
    fanouts : sequence of int
        Edges drawn per node in each hop, without replacement.
    num_nodes : int
        Nodes of the whole graph.
    seed : int, default 0
        The draw of a node depends on the seed, the hop and the node only.

    Returns
    -------
    NeighborSample

    Raises
    ------
    GraphError
        A node out of range, or ``edge_index`` not of shape (2, E).
    ParameterError
        A negative fanout.

    Notes
    -----
    O(E) to sort the edges, then O(edges drawn · log fanout).

    References
    ----------
    Hamilton, Ying & Leskovec 2017, section 3.2.

    Examples
    --------
    >>> from sona.attention import sample_neighbors
    >>> sample_neighbors([[1, 2, 3], [0, 1, 2]], [0], [5, 5], num_nodes=4).nodes
    array([0, 1, 2])
    """
    n = count("num_nodes", num_nodes, 0)
    allotted("num_nodes", n)
    graph = sorted_edges(edge_index, n, loops=False)
    start = integers("nodes", nodes)
    if start.ndim != 1:
        raise ShapeError(f"nodes: expected one axis, got shape {start.shape}")
    if ((start < 0) | (start >= n)).any():
        raise GraphError(f"nodes: expected 0 to {n - 1}, got {start[(start < 0) | (start >= n)][0]}")
    sizes = [count("fanouts", f, 0) for f in fanouts]
    found, source, target, hop = graph.neighbourhood(start, sizes, key(seed))
    return NeighborSample(found, np.stack([source, target]), hop)
