"""A small graph of array operations that computes only what changed."""

from __future__ import annotations

import operator
import threading
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from sona._sealed import Told
from sona.exceptions import NotFiniteError, ShapeError

__all__ = ["ComputeGraph"]

Array = npt.NDArray[np.float32]


class _Adapter(Protocol):
    def forward(self, x: npt.ArrayLike) -> Array: ...


@dataclass(slots=True)
class _Node:
    kind: str
    parents: tuple[int, ...] = ()
    adapter: Hashable = None
    value: Array | None = None
    #: Grows when the value changes.
    version: int = 0
    #: Versions of what the value was computed from.
    seen: tuple[int, ...] | None = None


class ComputeGraph(Told):
    """Lazy products, sums and adapters: a node is computed when it is asked for and something under it changed.

    Worth it where one of several inputs changes between evaluations, or where many outputs share a costly part. For a chain
    whose input is always new it only adds work.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.control import ComputeGraph
    >>> graph = ComputeGraph()
    >>> x, w, b = graph.add_input(np.ones((1, 2))), graph.add_input(np.eye(2)), graph.add_input([[1.0, 2.0]])
    >>> y = graph.add_add(graph.add_matmul(x, w), b)
    >>> graph.evaluate(y)
    array([[2., 3.]], dtype=float32)
    >>> graph.set_input(b, [[0.0, 0.0]])
    >>> graph.evaluate(y), graph.metrics()["computed"]  # the product is kept
    (array([[1., 1.]], dtype=float32), 3)
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._nodes: list[_Node] = []
        self._adapters: dict[Hashable, tuple[_Adapter, int]] = {}
        self._computed = 0
        self._reused = 0

    def _add(self, node: _Node) -> int:
        with self._lock:
            for p in node.parents:
                self._node(p)
            self._nodes.append(node)
            return len(self._nodes) - 1

    def _node(self, node: int) -> _Node:
        if not 0 <= node < len(self._nodes):
            raise KeyError(f"no node {node}")
        return self._nodes[node]

    @staticmethod
    def _array(x: npt.ArrayLike) -> Array:
        a = np.array(x, dtype=np.float32)
        if not np.isfinite(a).all():
            raise NotFiniteError("x: expected finite numbers")
        a.flags.writeable = False
        return a

    def add_input(self, x: npt.ArrayLike) -> int:
        """A node that holds a copy of `x`."""
        return self._add(_Node("input", value=self._array(x), version=1))

    def set_input(self, node: int, x: npt.ArrayLike) -> None:
        """Replace an input; what hangs on it is computed anew when it is asked for."""
        value = self._array(x)
        with self._lock:
            n = self._node(node)
            if n.kind != "input":
                raise ValueError(f"node {node} is no input")
            n.value = value
            n.version += 1

    def add_matmul(self, l: int, r: int) -> int:  # noqa: E741 (the names of the two operands)
        """The node l @ r."""
        return self._add(_Node("matmul", (l, r)))

    def add_add(self, l: int, r: int) -> int:  # noqa: E741
        """The node l + r."""
        return self._add(_Node("add", (l, r)))

    def add_lora(self, input: int, adapter_id: Hashable) -> int:
        """The node of an adapter's ``forward``; the adapter may be registered later."""
        return self._add(_Node("lora", (input,), adapter=adapter_id))

    def register_adapter(self, id: Hashable, lora: _Adapter) -> None:
        """Register or replace an adapter. After it was trained, register it again: its nodes are then computed anew."""
        with self._lock:
            version = self._adapters[id][1] + 1 if id in self._adapters else 1
            self._adapters[id] = (lora, version)

    def evaluate(self, node: int) -> Array:
        """Value of a node, read-only.

        Raises
        ------
        KeyError
            If the node or an adapter is unknown.
        ShapeError
            If shapes under it do not fit.

        Notes
        -----
        O(nodes under it) beyond the operations; no recursion.
        """
        with self._lock:
            self._node(node)
            # Nodes are added after what they read: their numbers are a topological order.
            needed = {node}
            for i in range(node, -1, -1):
                if i in needed:
                    needed.update(self._nodes[i].parents)
            for i in sorted(needed):
                self._refresh(i)
            value = self._nodes[node].value
            assert value is not None
            return value

    def _refresh(self, i: int) -> None:
        n = self._nodes[i]
        if n.kind == "input":
            return
        parents = [self._nodes[p] for p in n.parents]
        seen = tuple(p.version for p in parents)
        if n.kind == "lora":
            if n.adapter not in self._adapters:
                raise KeyError(f"no adapter {n.adapter!r}")
            seen = (*seen, self._adapters[n.adapter][1])
        if n.seen == seen:
            self._reused += 1
            return
        values = [p.value for p in parents if p.value is not None]
        try:
            if n.kind == "matmul":
                value = values[0] @ values[1]
            elif n.kind == "add":
                value = values[0] + values[1]
            else:
                value = self._adapters[n.adapter][0].forward(values[0])
        except ValueError as error:
            raise ShapeError(f"node {i} ({n.kind}) of shapes {[v.shape for v in values]}: {error}") from error
        value = np.asarray(value, dtype=np.float32)
        value.flags.writeable = False
        n.value, n.seen = value, seen
        n.version += 1
        self._computed += 1

    def metrics(self) -> dict[str, int | float]:
        """Nodes, and how many were computed or taken as they were."""
        return {"nodes": len(self._nodes), "computed": self._computed, "reused": self._reused}

    def _tell(self) -> dict[str, Any]:
        """Nodes and inputs; what follows from them is computed anew, and adapters are registered again. Their ids are JSON."""
        with self._lock:
            nodes = [
                [
                    n.kind,
                    list(n.parents),
                    n.adapter,
                    None if n.value is None or n.parents else [n.value.shape, n.value.ravel().tolist()],
                ]
                for n in self._nodes
            ]
            return {"nodes": nodes, "counts": [self._computed, self._reused]}

    @classmethod
    def _told(cls, state: dict[str, Any]) -> Self:
        self = cls()
        add = {"matmul": self.add_matmul, "add": self.add_add}
        for kind, parents, adapter, value in state["nodes"]:
            if kind == "input":
                self.add_input(np.array(value[1], dtype=np.float32).reshape(value[0]))
            elif kind == "lora":
                self.add_lora(parents[0], adapter)
            else:
                add[kind](parents[0], parents[1])
        self._computed, self._reused = map(operator.index, state["counts"])
        return self

    def __repr__(self) -> str:
        return f"ComputeGraph(nodes={len(self._nodes)}, adapters={len(self._adapters)})"
