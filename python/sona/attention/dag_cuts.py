"""Where to divide a graph: the minimum cut with its gate, and the placement of work on two sites."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from sona.attention._arrays import Array
from sona.attention._errors import GateSkipped, ParameterError
from sona.attention.dag import Dag, DagScores, costs, positive
from sona.attention.dag_paths import dag_topological

__all__ = ["GatePacket", "PlacementResult", "dag_mincut_gated", "dag_two_site_placement"]


class PlacementResult(NamedTuple):
    """Where each node runs."""

    site: Array
    """bool ``(n,)``; True = second site."""
    total: float
    """Cost of running plus volume sent between the sites."""


@dataclass(frozen=True, slots=True)
class GatePacket:
    """How well connected a graph is, and was: what decides whether attention to its cut can be trusted.

    Parameters
    ----------
    lam, lam_prev : float
        Global minimum cut now and before.
    boundary_edges : int, default 0
    boundary_concentration : float, default 0.0
    partition_count : int, default 1
    flags : int, default 0
        Sum of ``FORCE_SAFE`` (use the topological scores) and ``SKIP`` (do not run).

    Examples
    --------
    >>> from sona.attention import GatePacket
    >>> GatePacket(7.5, 10.0).drop
    0.25
    """

    lam: float
    lam_prev: float
    boundary_edges: int = 0
    boundary_concentration: float = 0.0
    partition_count: int = 1
    flags: int = 0

    FORCE_SAFE: ClassVar[int] = 1
    SKIP: ClassVar[int] = 2

    def __post_init__(self) -> None:
        """NaN has no order: it cannot say how far the cut dropped."""
        for name in ("lam", "lam_prev"):
            if math.isnan(getattr(self, name)):
                raise ParameterError(f"{name}: expected a number, got nan")

    @property
    def drop(self) -> float:
        """Relative loss of connectivity, max(0, (lam_prev − lam) / lam_prev); 0 where lam_prev is not above 0."""
        if self.lam_prev <= 0.0:
            return 0.0
        return max(0.0, (self.lam_prev - self.lam) / self.lam_prev)

    @classmethod
    def from_dag(cls, dag: Dag, *, lam_prev: float | None = None) -> GatePacket:
        """Packet with the global minimum cut of the undirected graph weighted by ``edge_cost``.

        The cut is 0 for a graph in pieces or of fewer than two nodes; `lam_prev` defaults to it.

        References
        ----------
        Stoer & Wagner 1997; Nagamochi, Ono & Ibaraki 1994.

        Examples
        --------
        >>> from sona.attention import Dag, GatePacket
        >>> GatePacket.from_dag(Dag(3, [(0, 1), (0, 2), (1, 2)], edge_cost=[5.0, 1.0, 2.0])).lam
        3.0
        """
        lam = dag._graph.global_minimum_cut()
        return cls(lam, lam if lam_prev is None else float(lam_prev))


def dag_mincut_gated(
    dag: Dag,
    *,
    gate: GatePacket | None = None,
    source: int | None = None,
    sink: int | None = None,
    threshold: float = 0.5,
    floor: float = 0.01,
) -> DagScores:
    """Attention to the ends of the minimum cut, faded to topological attention where the graph came apart.

    For deciding where to write a checkpoint or ship data between two sites: the cut is where the least volume crosses.

    Parameters
    ----------
    dag : Dag
        Its ``edge_cost`` are the volumes; those of parallel edges add.
    gate : GatePacket, optional
        With a drop of connectivity, or FORCE_SAFE, scores are (1 − g)·cut + g·topological (decay 0.9) with
        g = clip(drop / threshold, 0, 1), or 1.
    source, sink : int, optional
        Ends of the flow; default: all nodes that begin, or end, a path.
    threshold : float, default 0.5
        Drop at which g is 1; above 0.
    floor : float, default 0.01
        Weight of volume that is not cut; at least 0.

    Returns
    -------
    DagScores
        ∝ volume of cut edges at a node + floor · volume of all edges there; uniform where that is 0. Extras: ``cut_value``,
        ``side`` (bool (n,), the source's side, the smallest one of all minimum cuts), ``cut_edges`` (int64 numbers of the
        edges that cross), ``gate_weight`` = g.

    Raises
    ------
    GateSkipped
        The gate has the SKIP flag.
    GraphError
        No such source or sink.
    ParameterError
        ``source == sink``, threshold or floor out of range.

    Notes
    -----
    Dinic's algorithm in exact integer arithmetic: O(n²·e) at worst, far less in practice.

    References
    ----------
    Ford & Fulkerson 1956; Dinic 1970.

    Examples
    --------
    >>> from sona.attention import Dag, dag_mincut_gated
    >>> r = dag_mincut_gated(Dag(3, [(0, 1), (1, 2)], edge_cost=[10.0, 2.0]), floor=0.0)
    >>> r.scores, r.extras["cut_value"], r.extras["cut_edges"]
    (array([0. , 0.5, 0.5]), 2.0, array([1]))
    """
    if gate is not None and gate.flags & GatePacket.SKIP:
        raise GateSkipped("gate: the SKIP flag is set")
    limit = positive("threshold", threshold)
    least = float(floor)
    if not 0.0 <= least < math.inf:
        raise ParameterError(f"floor: expected at least 0, got {least}")
    ends = [None if v is None else dag.node(v, name) for name, v in (("source", source), ("sink", sink))]
    if ends[0] is not None and ends[0] == ends[1]:
        raise ParameterError(f"source, sink: expected two nodes, got {ends[0]} twice")
    scores, value, side, cut_edges = dag._graph.minimum_cut(ends[0], ends[1], least)
    g = 0.0
    if gate is not None:
        g = 1.0 if gate.flags & GatePacket.FORCE_SAFE else min(1.0, gate.drop / limit)
    if g > 0.0:
        scores = (1.0 - g) * scores + g * dag_topological(dag, decay=0.9).scores
    return DagScores(scores, {"cut_value": value, "side": side, "cut_edges": cut_edges, "gate_weight": g})


def dag_two_site_placement(dag: Dag, cost_a: Any, cost_b: Any) -> PlacementResult:
    """Assignment of every node to one of two sites at the least cost of running plus volume sent between the sites.

    Parameters
    ----------
    dag : Dag
        Its ``edge_cost`` is what an edge between the sites costs, in the unit of the running costs.
    cost_a, cost_b : array_like, shape (n,), float32 or float64
        Cost of running each node on the first and on the second site, at least 0.

    Returns
    -------
    PlacementResult
        ``site`` (True = second) and ``total``.

    Raises
    ------
    ShapeError
        Costs of the wrong length.
    ParameterError
        A cost that is negative, NaN or infinite.

    Notes
    -----
    Exact, by one minimum cut.

    References
    ----------
    Stone 1977, "Multiprocessor scheduling with the aid of network flow algorithms".

    Examples
    --------
    >>> from sona.attention import Dag, dag_two_site_placement
    >>> g = Dag(3, [(0, 1), (1, 2)], edge_cost=[9.0, 1.0])
    >>> dag_two_site_placement(g, [1.0, 4.0, 9.0], [9.0, 2.0, 1.0])
    PlacementResult(site=array([False, False,  True]), total=7.0)
    """
    site, total = dag._graph.placement(costs("cost_a", cost_a, dag.n), costs("cost_b", cost_b, dag.n))
    return PlacementResult(site, total)
