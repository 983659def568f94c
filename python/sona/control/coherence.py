"""Whether a graph is about to fall apart: the minimum cut, watched."""

from __future__ import annotations

import math
import operator
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from sona._core import MinCut, tension
from sona._sealed import Told
from sona.control.events import Event, EventBus, EventKind
from sona.exceptions import ConfigError, NotFiniteError

if TYPE_CHECKING:
    from sona.attention import GatePacket as AttentionGate

__all__ = ["CoherenceMonitor", "GatePacket"]


@dataclass(frozen=True, slots=True)
class GatePacket:
    """What the monitor saw.

    Parameters
    ----------
    lambda_ : float
        Weight of the minimum cut.
    tension : float
        In [0, 1]; see :func:`sona.control.tension`.
    active : bool
        Whether the tension is high, with hysteresis.
    boundary : frozenset of int
        The smaller side of the cut.
    conductance : float
        Weight across the cut over the weight of that side's edges: a leaf has 1, a large weakly tied part near 0.
    lambda_ewma : float, default 0.0
        Running mean of the minimum cut before this observation.
    """

    lambda_: float
    tension: float
    active: bool
    boundary: frozenset[int]
    conductance: float
    lambda_ewma: float = 0.0

    def attention_gate(self) -> AttentionGate:
        """The packet that :func:`sona.attention.dag_mincut_gated` takes: the cut now, and its running mean as before."""
        from sona.attention import GatePacket as AttentionGate

        return AttentionGate(self.lambda_, self.lambda_ewma, partition_count=2 if self.boundary else 1)


class CoherenceMonitor(Told):
    """Watches the minimum cut of a graph and says when it is low.

    Parameters
    ----------
    graph : MinCut
    ewma : float, default 0.05
        Weight of a new value in the running mean.
    on, off : float, default 0.7 and 0.6
        The packet becomes active at a tension of `on` and inactive below `off`.
    bus : EventBus, optional
        Gets ATTENTION_SWITCH, CACHE_INVALIDATE, REALLOCATE and HEAL when the packet becomes active, and LR_BOOST
        only if the loss rises as well.

    Raises
    ------
    ConfigError
        If a setting is out of range.

    Examples
    --------
    >>> from sona.control import CoherenceMonitor, MinCut
    >>> graph = MinCut(4)
    >>> for u, v in [(0, 1), (1, 2), (2, 3), (3, 0), (0, 2), (1, 3)]:
    ...     _ = graph.set_edge(u, v, 1.0)
    >>> monitor = CoherenceMonitor(graph)
    >>> monitor.observe().tension
    0.0
    >>> _ = graph.set_edge(3, 0, 0.1), graph.set_edge(1, 3, 0.1), graph.set_edge(2, 3, 0.1)
    >>> packet = monitor.observe()
    >>> packet.active, sorted(packet.boundary)
    (True, [3])
    """

    def __init__(
        self,
        graph: MinCut,
        *,
        ewma: float = 0.05,
        on: float = 0.7,
        off: float = 0.6,
        bus: EventBus | None = None,
    ) -> None:
        if not isinstance(graph, MinCut):
            raise TypeError(f"graph: expected a MinCut, got {type(graph).__name__}")
        if not 0.0 < ewma <= 1.0:
            raise ConfigError(f"ewma: expected a number in (0, 1], got {ewma}")
        if not 0.0 <= off <= on <= 1.0:
            raise ConfigError(f"on, off: expected 0 <= off <= on <= 1, got on={on}, off={off}")
        self._graph = graph
        self._weight = ewma
        self._on = on
        self._off = off
        self._bus = bus
        self._lock = threading.Lock()
        self._mean: float | None = None
        self._loss: float | None = None
        self._active = False
        self._observed = 0
        self._activations = 0

    def observe(self, *, loss: float | None = None, now: float | None = None) -> GatePacket:
        """Look at the graph.

        Parameters
        ----------
        loss : float, optional
            The loss of whatever learns beside the graph; LR_BOOST needs it to rise above its own running mean.
        now : float, optional
            Seconds, for the cooldowns of the bus.

        Returns
        -------
        GatePacket
            O(nodes + edges of the cut's side).
        """
        if loss is not None and not math.isfinite(loss):
            raise NotFiniteError(f"loss: expected a finite number, got {loss}")
        graph = self._graph
        with self._lock:
            value = graph.value
            mean = value if self._mean is None else self._mean
            strain = tension(value, graph.min_degree, mean)
            was = self._active
            self._active = strain >= self._on or (was and strain >= self._off)
            if value != float("inf"):
                self._mean = mean + self._weight * (value - mean)
            rises = loss is not None and self._loss is not None and loss > self._loss
            if loss is not None:
                self._loss = loss if self._loss is None else self._loss + self._weight * (loss - self._loss)
            self._observed += 1
            begins = self._active and not was
            self._activations += begins
            packet = GatePacket(value, strain, self._active, graph.partition, graph.conductance, mean)
        if begins and self._bus is not None:
            kinds = [EventKind.ATTENTION_SWITCH, EventKind.CACHE_INVALIDATE, EventKind.REALLOCATE, EventKind.HEAL]
            for kind in [*kinds, EventKind.LR_BOOST] if rises else kinds:
                self._bus.publish(Event(kind, {"packet": packet}), now)
        return packet

    def metrics(self) -> dict[str, int | float]:
        """Observations, activations and the running mean of the cut."""
        return {
            "observed": self._observed,
            "activations": self._activations,
            "active": int(self._active),
            "lambda_ewma": 0.0 if self._mean is None else self._mean,
        }

    def _tell(self) -> dict[str, Any]:
        """All but the bus; the graph is part of it."""
        with self._lock:
            return {
                "graph": self._graph.to_bytes().hex(),
                "settings": [self._weight, self._on, self._off],
                "means": [self._mean, self._loss],
                "active": self._active,
                "counts": [self._observed, self._activations],
            }

    @classmethod
    def _told(cls, state: dict[str, Any]) -> Self:
        ewma, on, off = state["settings"]
        self = cls(MinCut.from_bytes(bytes.fromhex(state["graph"])), ewma=ewma, on=on, off=off)
        self._mean, self._loss = (None if v is None else float(v) for v in state["means"])
        self._active = bool(state["active"])
        self._observed, self._activations = map(operator.index, state["counts"])
        return self

    def __repr__(self) -> str:
        return f"CoherenceMonitor({self._graph!r}, active={self._active})"
