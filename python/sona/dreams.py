"""Offline link suggestions and consolidation: memory graph, dreams, integration, compaction.

A :class:`DreamEngine` walks over memories and suggests edges between those that belong together; a
:class:`PhiEvaluator` says how much a small graph hangs together; a :class:`MemoryConsolidator` makes a store smaller.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sona import _core
from sona._core import (
    DreamEngine,
    EdgeWeights,
    MemoryConsolidator,
    earth_movers_distance,
    random_walk_with_restart,
    stochastic_interaction,
)
from sona.exceptions import CapacityError, ConfigError, NotFiniteError, ShapeError
from sona.trajectory._records import Record

__all__ = [
    "ConsolidationResult",
    "Dream",
    "DreamConfig",
    "DreamEngine",
    "DreamScore",
    "EdgeWeights",
    "MemoryConsolidator",
    "MemoryNode",
    "PhiEvaluator",
    "PhiResult",
    "earth_movers_distance",
    "random_walk_with_restart",
    "stochastic_interaction",
]


@dataclass(frozen=True, slots=True, eq=False)
class MemoryNode(Record):
    """One memory.

    Parameters
    ----------
    id : int
    embedding : (d,) float32
        Copied, read-only.
    timestamp : float, default 0.0
        Seconds.
    access_count : int, default 0
        How often it was used.
    importance : float, default 0.5
        In [0, 1].

    Raises
    ------
    NotFiniteError, ShapeError
    ConfigError
        An importance outside [0, 1] or a negative count.

    Examples
    --------
    >>> MemoryNode(7, [1.0, 0.0]).importance
    0.5
    """

    id: int
    embedding: npt.NDArray[np.float32]
    timestamp: float = 0.0
    access_count: int = 0
    importance: float = 0.5

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "id", operator.index(self.id))
        put(self, "embedding", _core.frozen_vector("embedding", self.embedding))
        put(self, "timestamp", _finite("timestamp", self.timestamp))
        put(self, "access_count", operator.index(self.access_count))
        put(self, "importance", _finite("importance", self.importance))
        if not 0.0 <= self.importance <= 1.0:
            raise ConfigError(f"importance: expected a number in [0, 1], got {self.importance}")
        if self.access_count < 0:
            raise ConfigError(f"access_count: expected at least 0, got {self.access_count}")


def _finite(name: str, value: float) -> float:
    value = float(value)
    if not np.isfinite(value):
        raise NotFiniteError(f"{name}: not finite ({value})")
    return value


def _memory_node(
    number: int, embedding: npt.NDArray[np.float32], timestamp: float, access_count: int, importance: float
) -> MemoryNode:
    """Make a node of values that the core has checked."""
    node = object.__new__(MemoryNode)
    embedding.flags.writeable = False
    put = object.__setattr__
    put(node, "id", number)
    put(node, "embedding", embedding)
    put(node, "timestamp", timestamp)
    put(node, "access_count", access_count)
    put(node, "importance", importance)
    return node


@dataclass(frozen=True, kw_only=True, slots=True)
class DreamConfig:
    """Settings of dreams.

    Parameters
    ----------
    path_length : int, default 15
        Memories on a path.
    creative_jump_prob : float, default 0.3
        Chance of a jump at a step that does not restart.
    restart_prob : float, default 0.1
        Chance of a return to the start.
    novelty_weight, coherence_weight, utility_weight : float, default 0.3, 0.4, 0.3
        Of the score.
    jump_temperature : float, default 0.2
        A jump goes to j with chance proportional to exp(cos / temperature).
    probation : int, default 100
        Ticks after which an unconfirmed suggestion goes.

    Raises
    ------
    ConfigError
        A setting out of range.

    Examples
    --------
    >>> DreamConfig(path_length=8).restart_prob
    0.1
    """

    path_length: int = 15
    creative_jump_prob: float = 0.3
    restart_prob: float = 0.1
    novelty_weight: float = 0.3
    coherence_weight: float = 0.4
    utility_weight: float = 0.3
    jump_temperature: float = 0.2
    probation: int = 100

    def __post_init__(self) -> None:
        _core.check_dream_config(self)


@dataclass(frozen=True, slots=True)
class DreamScore:
    """How good a path is: novelty, coherence and utility, each in [-1, 1], and their weighted sum."""

    novelty: float
    coherence: float
    utility: float
    total: float


@dataclass(frozen=True, slots=True)
class Dream:
    """One walk: its memories in order, the jumps among its steps, and its score."""

    id: int
    path: tuple[MemoryNode, ...]
    creative_jumps: int
    total_novelty: float
    coherence: float
    utility: float
    score: float


@dataclass(frozen=True, slots=True)
class PhiResult:
    """Φ of a system and the concepts it has: (nodes of the mechanism, φ), small mechanisms first."""

    phi: float
    concepts: list[tuple[tuple[int, ...], float]]


@dataclass(frozen=True, slots=True)
class ConsolidationResult:
    """What a consolidation left and did; ``nodes`` are in the order of the input."""

    nodes: list[MemoryNode]
    strengthened: int
    pruned: int
    merged: int
    bytes_before: int
    bytes_after: int


class PhiEvaluator:
    """How much a system is more than its parts: exactly for a handful of binary nodes, by a proxy for graphs.

    Φ is the quantity of integrated information theory 3.0. The proxy is called integration and says how well a graph
    hangs together; neither says anything about consciousness. Holds a setting, no state.

    Parameters
    ----------
    max_nodes : int, default 4
        Most nodes that :meth:`phi` takes, 1 to 6. Each node more costs about thirty times the time.

    Raises
    ------
    ConfigError

    References
    ----------
    Oizumi, Albantakis & Tononi (2014), From the phenomenology to the mechanisms of consciousness: IIT 3.0.
    Ay (2015), Information geometry on complexity and stochastic interaction.

    Examples
    --------
    >>> evaluator = PhiEvaluator()
    >>> swap = [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> evaluator.phi(swap, [0, 1], cm=[[0, 1], [1, 0]]).phi
    1.0
    >>> round(evaluator.integration([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), 6)
    1.0
    """

    __slots__ = ("_max_nodes",)

    def __init__(self, *, max_nodes: int = 4) -> None:
        self._max_nodes = operator.index(max_nodes)
        if not 1 <= self._max_nodes <= 6:
            raise ConfigError(f"max_nodes: expected 1 to 6, got {max_nodes}")

    @property
    def max_nodes(self) -> int:
        """Most nodes that :meth:`phi` takes."""
        return self._max_nodes

    def phi(self, tpm: npt.ArrayLike, state: Sequence[int], *, cm: npt.ArrayLike | None = None) -> PhiResult:
        """Φ and the concepts of the whole system in a state, by integrated information theory 3.0.

        Repertoires are compared by the earth mover's distance, cuts of the system are one-way bipartitions, and of
        equally irreducible purviews the larger is taken.

        Parameters
        ----------
        tpm : (2**n, n) array
            Chance that node j is on after state x; node 0 is the lowest bit of x.
        state : (n,) of 0 or 1
        cm : (n, n) array, optional
            ``cm[i, j]`` is 1 if i feeds j; default: all do.

        Returns
        -------
        PhiResult
            Φ = 0 and no concepts for one node or a system that is not strongly connected.

        Raises
        ------
        CapacityError
            More than ``max_nodes`` nodes; use :meth:`integration`.
        ValueError
            Not a table of probabilities, or a state that none leads to.
        """
        table = np.asarray(tpm, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] == 0:
            raise ShapeError(f"tpm: expected shape (2**n, n), got {table.shape}")
        n = table.shape[1]
        if n > self._max_nodes:
            raise CapacityError(f"tpm: exact Φ takes at most {self._max_nodes} nodes, got {n}; `integration` takes more")
        if not np.isfinite(table).all():
            raise NotFiniteError("tpm: not finite")
        bits = np.asarray(state)
        if bits.shape != (n,) or not np.isin(bits, (0, 1)).all():
            raise ShapeError(f"state: expected {n} values of 0 or 1, got {state!r}")
        wiring = None
        if cm is not None:
            links = np.asarray(cm)
            if links.shape != (n, n):
                raise ShapeError(f"cm: expected shape ({n}, {n}), got {links.shape}")
            wiring = [bool(v) for v in links.ravel()]
        return PhiResult(*_core.phi_exact(table, [bool(b) for b in bits], wiring, self._max_nodes))

    def integration(self, W: npt.ArrayLike, *, restart: float = 0.1) -> float:
        """Φ̂ of a weighted graph: 0 in two pieces, 1 for a clique.

        The least stochastic interaction, over all cuts in two, of the walk on the graph, divided by that of the
        clique of as many nodes.

        Parameters
        ----------
        W : (n, n) array
            Weights of at least 0.
        restart : float, default 0.1
            In (0, 1]; the walk forgets that share at each step.

        Returns
        -------
        float
            In [0, 1].

        Raises
        ------
        ShapeError, NotFiniteError, ValueError
        CapacityError
            More than 256 nodes.

        Notes
        -----
        All cuts up to 12 nodes; above, the best of a sweep along the Fiedler vector and (to 32 nodes) Queyranne's
        search, each improved by moving single nodes: an upper bound of the least.
        """
        return _core.graph_integration(W, restart)

    def evaluate_dream(self, dream: Dream, engine: DreamEngine) -> float:
        """:meth:`integration` of the sub-graph that a dream's path induces; 0.0 for fewer than two memories."""
        weights, n = engine._induced(dream)
        return _core.graph_integration(np.asarray(weights, dtype=np.float32).reshape(n, n), 0.1)

    def __reduce__(self) -> tuple[Any, ...]:
        return _phi_evaluator, (self._max_nodes,)

    def __repr__(self) -> str:
        return "PhiEvaluator()" if self._max_nodes == 4 else f"PhiEvaluator(max_nodes={self._max_nodes})"


def _phi_evaluator(max_nodes: int) -> PhiEvaluator:
    return PhiEvaluator(max_nodes=max_nodes)


def _consolidator(
    merge_similarity: float, half_life_s: float, max_bytes: int | None, coverage: int | None
) -> MemoryConsolidator:
    return MemoryConsolidator(
        merge_similarity=merge_similarity, half_life_s=half_life_s, max_bytes=max_bytes, coverage=coverage
    )
