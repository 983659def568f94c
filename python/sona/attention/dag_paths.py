"""Attention to the nodes of a graph by depth, by cone, by critical path and by what runs in parallel."""

from __future__ import annotations

from typing import Any

from sona.attention._errors import ParameterError
from sona.attention.dag import Dag, DagScores, costs, positive, workers_count

__all__ = ["dag_causal_cone", "dag_critical_path", "dag_parallel_branch", "dag_topological"]


def decay_rate(decay: float) -> float:
    """A number in (0, 1]."""
    value = positive("decay", decay)
    if value > 1.0:
        raise ParameterError(f"decay: expected a number in (0, 1], got {value}")
    return value


def dag_topological(dag: Dag, *, decay: float = 0.9, direction: str = "sources") -> DagScores:
    """Attention to early (or late) work: decay**level.

    For deciding where to spend effort on estimates and validation: an error at an early node reaches everything after it.

    Parameters
    ----------
    dag : Dag
    decay : float in (0, 1], default 0.9
        1 gives all nodes the same score.
    direction : {"sources", "sinks"}, default "sources"
        Which end has level 0.

    Returns
    -------
    DagScores
        ``extras["level"]``: edges on the longest path from a source (or to a sink), int64 (n,).

    Raises
    ------
    ParameterError
        ``decay`` out of range, unknown direction.

    Notes
    -----
    O(n + e).

    References
    ----------
    Ioannidis & Christodoulakis 1991, "On the propagation of errors in the size of join results".

    Examples
    --------
    >>> from sona.attention import Dag, dag_topological
    >>> dag_topological(Dag(2, [(0, 1)]), decay=0.5).scores
    array([0.66666667, 0.33333333])
    """
    if direction not in ("sources", "sinks"):
        raise ParameterError(f"direction: expected sources or sinks, got {direction!r}")
    scores, level = dag._graph.topological(decay_rate(decay), direction == "sinks")
    return DagScores(scores, {"level": level})


def dag_causal_cone(
    dag: Dag,
    node: int,
    *,
    direction: str = "past",
    decay: float = 0.8,
    metric: str = "hops",
    evidence: Any = None,
) -> DagScores:
    """Attention to what a node depends on, or what depends on it; exactly 0 elsewhere.

    The past cone says whom to suspect for a symptom at the node, the future cone what to recompute when it changes.

    Parameters
    ----------
    dag : Dag
    node : int
    direction : {"past", "future", "both"}, default "past"
    decay : float in (0, 1], default 0.8
        Factor per unit of distance.
    metric : {"hops", "cost"}, default "hops"
        Distance: edges of the shortest path, or least sum of node costs on a path, `node` itself not counted.
    evidence : array_like, shape (n,), float32 or float64, optional
        Weight of each node at distance 0 (how anomalous it is), at least 0.

    Returns
    -------
    DagScores
        ∝ decay**distance · evidence on the cone, uniform on it where all products are 0. ``extras["cone"]``: bool (n,),
        `node` included; ``extras["distance"]``: float64 (n,), infinite outside the cone.

    Raises
    ------
    GraphError
        No such node.
    ParameterError
        An unknown direction or metric, ``decay`` out of range, evidence that is negative, NaN or infinite.
    ShapeError
        Evidence of the wrong length.

    Notes
    -----
    O(n + e).

    Examples
    --------
    >>> from sona.attention import Dag, dag_causal_cone
    >>> dag_causal_cone(Dag(4, [(0, 1), (1, 2), (1, 3)]), 2, decay=0.5).scores.round(3)
    array([0.143, 0.286, 0.571, 0.   ])
    """
    names = ("past", "future", "both")
    if direction not in names:
        raise ParameterError(f"direction: expected past, future or both, got {direction!r}")
    if metric not in ("hops", "cost"):
        raise ParameterError(f"metric: expected hops or cost, got {metric!r}")
    weight = None if evidence is None else costs("evidence", evidence, dag.n)
    scores, distance = dag._graph.causal_cone(
        dag.node(node), names.index(direction), metric == "cost", decay_rate(decay), weight
    )
    return DagScores(scores, {"cone": distance < float("inf"), "distance": distance})


def dag_critical_path(dag: Dag, *, temperature: float = 0.02, workers: float | None = None) -> DagScores:
    """Attention to nodes by the probability that a costly path passes through them.

    For deciding what to speed up: rank by ``extras["saving"]`` with unlimited workers, by the scores with ``workers=p``.

    Parameters
    ----------
    dag : Dag
    temperature : float, default 0.02
        τ in units of the makespan; towards 0 only critical paths count.
    workers : float, optional
        Number of workers p ≥ 1 that share the work. The makespan is then at least W/p too (W the sum of costs), and scores
        are ∝ cost·(π·P + (1 − π)/p) with π = softmax([makespan, W/p] / (0.1·makespan))₀.

    Returns
    -------
    DagScores
        ∝ probability P. Extras, each (n,): ``probability``, ``saving`` = P·cost, ``slack``, ``earliest_start``,
        ``latest_start``; numbers ``makespan``, ``soft_makespan`` = τ·log Σ_paths exp(cost/τ); ``path``: the nodes of one
        critical path.

    Raises
    ------
    ParameterError
        ``temperature`` not above 0, ``workers`` below 1.

    Notes
    -----
    O(n + e). P is the gradient of the soft makespan by the costs.

    References
    ----------
    Kelley & Walker 1959 (critical path method); Mensch & Blondel 2018, "Differentiable Dynamic Programming for Structured
    Prediction and Attention".

    Examples
    --------
    >>> from sona.attention import Dag, dag_critical_path
    >>> r = dag_critical_path(Dag(4, [(0, 1), (0, 2), (1, 3), (2, 3)], cost=[1.0, 5.0, 2.0, 1.0]))
    >>> r.extras["path"], r.extras["makespan"], r.extras["slack"]
    (array([0, 1, 3]), 7.0, array([0., 0., 3., 0.]))
    """
    scores, extras = dag._graph.critical_path(positive("temperature", temperature), workers_count(workers))
    return DagScores(scores, extras)


def dag_parallel_branch(dag: Dag, *, workers: float | None = None) -> DagScores:
    """Attention to nodes by cost times the cost of what can run beside them; the branches between forks and joins.

    For deciding how to divide workers among concurrent branches, and which branch a join waits for.

    Parameters
    ----------
    dag : Dag
    workers : float, optional
        Workers to divide at each fork, at least 1.

    Returns
    -------
    DagScores
        Without anything concurrent ∝ cost, without cost uniform. Extras: numbers ``width`` (most nodes of which none reaches
        another), ``work``, ``span``, ``parallelism`` = work / span (1 if span is 0); for B branches arrays ``branch_fork``,
        ``branch_join`` (−1 = virtual sink), ``branch_work``, ``branch_span``, ``branch_wait`` (longest span of the fork −
        span), ``branch_share`` (of the fork's work), ``branch_nodes`` bool (B, n) and, with `workers`, ``branch_workers``.

    Raises
    ------
    ParameterError
        ``workers`` below 1.

    Notes
    -----
    A fork is a node with at least two successors, its join the immediate post-dominator; its branches are the weakly
    connected components between them, listed where there are at least two. Shares ∝ work minimise the longest work / share.
    O(n·e / 64) for reachability, O(n²·√n / 64) for the width.

    References
    ----------
    Dilworth 1950; Graham 1969; Brent 1974; Hopcroft & Karp 1973.

    Examples
    --------
    >>> from sona.attention import Dag, dag_parallel_branch
    >>> g = Dag(4, [(0, 1), (0, 2), (1, 3), (2, 3)], cost=[1.0, 6.0, 2.0, 1.0])
    >>> e = dag_parallel_branch(g, workers=8).extras
    >>> e["width"], e["branch_workers"], e["branch_wait"]
    (2, array([6., 2.]), array([0., 4.]))
    """
    scores, extras = dag._graph.parallel(workers_count(workers))
    return DagScores(scores, extras)
