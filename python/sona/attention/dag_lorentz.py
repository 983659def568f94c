"""Attention to the nodes of a graph by distance in its hierarchy, laid out on the hyperboloid."""

from __future__ import annotations

from sona.attention._errors import ParameterError
from sona.attention.dag import Dag, DagScores, positive

__all__ = ["dag_hierarchical_lorentz"]

#: Longest step; a long one is taken in pieces of 100.
_LONGEST = 1e6


def dag_hierarchical_lorentz(
    dag: Dag, *, node: int | None = None, curvature: float = 1.0, temperature: float = 1.0, step: float = 3.5
) -> DagScores:
    """Attention to nodes near in the hierarchy: softmax of −distance in a hyperbolic layout of a spanning tree.

    For borrowing statistics from related nodes.

    Parameters
    ----------
    dag : Dag
    node : int, optional
        Whose attention; default: mean of all nodes'.
    curvature : float, default 1.0
        Space has curvature −curvature; above 0.
    temperature : float, default 1.0
        Weights are softmax(−distance / (step·temperature)), the node itself included.
    step : float, default 3.5, at most 1e6
        Length of an edge where the curvature is −1. From 3 on distances follow the tree closely.

    Returns
    -------
    DagScores
        ``extras["distance"]``: (n, n), or (n,) from `node`; ``extras["parent"]``: int64 (n,), the predecessor of greatest
        level (of several the lowest), −1 = the virtual root.

    Raises
    ------
    GraphError
        No such node.
    ParameterError
        A parameter that is not above 0.

    Notes
    -----
    Neighbours leave a node at equal angles, the parent first, then children by number; distances are read off products of
    Lorentz frames with a logarithmic scale, so they stay exact over thousands of edges. O(n + e) with `node`, else O(n²).

    References
    ----------
    Sarkar 2011, "Low Distortion Delaunay Embedding of Trees in Hyperbolic Plane"; Nickel & Kiela 2018 (Lorentz model).

    Examples
    --------
    >>> from sona.attention import Dag, dag_hierarchical_lorentz
    >>> g = Dag(3, [(0, 1), (1, 2)])
    >>> dag_hierarchical_lorentz(g, node=0).extras["distance"]
    array([0. , 3.5, 7. ])
    """
    space = (positive("curvature", curvature), positive("temperature", temperature), positive("step", step))
    if space[2] > _LONGEST:
        raise ParameterError(f"step: expected at most {_LONGEST:g}, got {space[2]:g}")
    at = None if node is None else dag.node(node)
    scores, distance, parent = dag._graph.lorentz(at, *space)
    return DagScores(scores, {"distance": distance, "parent": parent})
