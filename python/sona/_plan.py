"""A query plan as a graph of operators. Public as ``sona.dag.QueryDag`` and ``sona.dag.OperatorType``."""

from __future__ import annotations

import enum
import operator
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona import _core

__all__ = ["OperatorType", "QueryDag"]


class OperatorType(enum.Enum):
    """What an operator of a plan does."""

    SCAN = "scan"
    INDEX_SCAN = "index_scan"
    FILTER = "filter"
    JOIN = "join"
    AGGREGATE = "aggregate"
    SORT = "sort"
    LIMIT = "limit"
    VECTOR_SEARCH = "vector_search"
    RERANK = "rerank"
    LLM_CALL = "llm_call"
    TOOL_CALL = "tool_call"
    OTHER = "other"


class QueryDag:
    """A plan: operators, and edges from each to those that come after it.

    The graph underneath is that of :class:`sona.attention.Dag`. Safe to share between threads.

    Examples
    --------
    >>> from sona.dag import OperatorType, QueryDag
    >>> plan = QueryDag()
    >>> join = plan.add_node(OperatorType.JOIN, cost=3.0, rows=100)
    >>> scans = [plan.add_node(OperatorType.SCAN, cost=c, rows=1000) for c in (1.0, 2.0)]
    >>> for scan in scans:
    ...     plan.add_edge(scan, join)
    >>> plan.topological_order(), plan.critical_path(), plan.depth(join)
    ([1, 2, 0], ([2, 0], 5.0), 1)
    """

    def __init__(self) -> None:
        self._plan = _core.PlanGraph()

    def add_node(self, op: OperatorType, *, cost: float = 0.0, rows: float = 0.0, features: npt.ArrayLike | None = None) -> int:
        """Add an operator.

        Parameters
        ----------
        op
            Its kind.
        cost
            Estimated cost in any unit, at least 0.
        rows
            Estimated rows that it returns, at least 0.
        features
            Whatever else is known of it, shape ``(m,)``, at most 4,096 numbers.

        Returns
        -------
        int
            Its number; numbers count up from 0.

        Raises
        ------
        NotFiniteError
            NaN or infinity.
        ValueError
            A negative number, or ``op`` that is no kind of operator.
        """
        return self._plan.add_node(OperatorType(op).value, float(cost), float(rows), features)

    def add_edge(self, parent: int, child: int) -> None:
        """Say that ``parent`` comes before ``child``; an edge that exists is not added again.

        Raises
        ------
        CycleError
            The edge would close a cycle: a ``ValueError`` whose ``cycle`` lists the nodes. Nothing changes.
        GraphError
            No such node, a ``ValueError``.

        Notes
        -----
        O(nodes + edges).
        """
        self._plan.add_edge(operator.index(parent), operator.index(child))

    def topological_order(self) -> list[int]:
        """Return every node after its parents; of those available the smallest comes first."""
        return self._plan.topological_order()

    def critical_path(self) -> tuple[list[int], float]:
        """Return the path whose costs sum to the most, and the sum."""
        return self._plan.critical_path()

    def depth(self, node: int) -> int:
        """Return the edges on the longest path from a node without parents to this one.

        Raises
        ------
        ValueError
            No such node.
        """
        at = operator.index(node)
        depths = self._plan.depths()
        if not 0 <= at < len(depths):
            raise ValueError(f"node: expected 0 to {len(depths) - 1}, got {at}")
        return depths[at]

    def node(self, node: int) -> tuple[OperatorType, float, float, npt.NDArray[np.float32]]:
        """Return kind, cost, rows and features of an operator.

        Raises
        ------
        ValueError
            No such node.
        """
        at = operator.index(node)
        found = self._plan.node(at) if at >= 0 else None
        if found is None:
            raise ValueError(f"node: expected 0 to {len(self) - 1}, got {at}")
        op, cost, rows, features = found
        return OperatorType(op), cost, rows, features

    @property
    def edges(self) -> list[tuple[int, int]]:
        """Edges (parent, child) in the order in which they were added."""
        return self._plan.edges()

    def to_bytes(self) -> bytes:
        """Return the whole plan, versioned and with a checksum."""
        return self._plan.to_bytes()

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; anything else raises ``CorruptStateError``."""
        self = cls()
        self._plan = _core.PlanGraph.from_bytes(b)
        return self

    def metrics(self) -> dict[str, int | float]:
        """Return the numbers of nodes and edges."""
        return {"nodes": len(self), "edges": len(self.edges)}

    def __len__(self) -> int:
        return len(self._plan)

    def __repr__(self) -> str:
        return f"<QueryDag: {len(self)} nodes, {len(self.edges)} edges>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))
