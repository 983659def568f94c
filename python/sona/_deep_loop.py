"""Loop C: dreams, consolidation and the merge of old tasks, within a deadline. Public as ``sona.loops``."""

from __future__ import annotations

import json
import operator
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from sona._sealed import pack, unpack
from sona.dreams import Dream, DreamEngine, MemoryConsolidator, PhiEvaluator
from sona.exceptions import ConfigError, CorruptStateError

if TYPE_CHECKING:
    from sona.continual import EwcPlusPlus

__all__ = ["DeepLoop", "DeepLoopConfig", "DeepResult"]

_COUNTS = ("cycles", "interrupted", "dreams_generated", "dreams_rejected", "dreams_integrated", "edges_suggested")


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepLoopConfig:
    """Settings of the deep loop.

    Parameters
    ----------
    dreams_per_cycle : int, default 50
        0 leaves dreaming out.
    consolidation_threshold : float, default 0.7
        Value from which a memory is strengthened.
    phi_threshold : float, default 0.3
        Least integration of a dream whose links are taken in, in [0, 1].
    max_cycle_s : float, default 600.0
        Seconds after which a cycle stops at the next dream or step.

    Raises
    ------
    ConfigError
        A setting out of range.

    Examples
    --------
    >>> DeepLoopConfig(dreams_per_cycle=10).phi_threshold
    0.3
    """

    dreams_per_cycle: int = 50
    consolidation_threshold: float = 0.7
    phi_threshold: float = 0.3
    max_cycle_s: float = 600.0

    def __post_init__(self) -> None:
        if operator.index(self.dreams_per_cycle) < 0:
            raise ConfigError(f"dreams_per_cycle: expected at least 0, got {self.dreams_per_cycle}")
        if not 0.0 <= self.phi_threshold <= 1.0:
            raise ConfigError(f"phi_threshold: expected a number in [0, 1], got {self.phi_threshold}")
        for name in ("consolidation_threshold", "max_cycle_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected a number of at least 0, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class DeepResult:
    """What a deep cycle did; ``status`` is "complete", "deadline", or "empty" where there is nothing to dream about."""

    dreams_generated: int
    dreams_integrated: int
    patterns_strengthened: int
    patterns_pruned: int
    elapsed_s: float
    status: str


class DeepLoop:
    """Loop C: dreams over the memory graph, suggests links, compacts the memories and merges old tasks.

    A cycle generates dreams, takes in the links of those whose sub-graph hangs together (integration of at least
    ``phi_threshold``), consolidates the memories and folds all tasks of the weight protection into one. Suggested links
    are on probation in :class:`~sona.dreams.DreamEngine`; confirm those that a request used with success. Safe to share
    between threads; cycles run one at a time.

    Parameters
    ----------
    config : DeepLoopConfig, optional
    engine : DreamEngine, optional
        The memory graph; default: an empty one.
    ewc : EwcPlusPlus, optional
        Its tasks are folded into one at the end of a cycle.
    consolidator : MemoryConsolidator, optional
        Set ``max_bytes`` in it to have memories dropped.

    Examples
    --------
    >>> from sona.dreams import DreamEngine, MemoryNode
    >>> engine = DreamEngine(seed=1)
    >>> for i in range(6):
    ...     engine.add_memory_node(MemoryNode(i, [1.0, i / 6, (i % 2) / 2], access_count=1))
    ...     for j in range(i):
    ...         engine.add_edge(j, i)
    >>> result = DeepLoop(DeepLoopConfig(dreams_per_cycle=5), engine=engine).run_cycle()
    >>> result.dreams_generated, result.dreams_integrated, result.status
    (5, 5, 'complete')
    """

    def __init__(
        self,
        config: DeepLoopConfig | None = None,
        *,
        engine: DreamEngine | None = None,
        ewc: EwcPlusPlus | None = None,
        consolidator: MemoryConsolidator | None = None,
    ) -> None:
        self.config = DeepLoopConfig() if config is None else config
        self._engine = DreamEngine() if engine is None else engine
        self._ewc = ewc
        self._consolidator = MemoryConsolidator() if consolidator is None else consolidator
        self._phi = PhiEvaluator()
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._lock = threading.Lock()

    @property
    def dream_engine(self) -> DreamEngine:
        """The memory graph."""
        return self._engine

    @property
    def ewc(self) -> EwcPlusPlus | None:
        """The weight protection whose tasks are merged, if there is one."""
        return self._ewc

    def run_cycle(
        self, *, now: float | None = None, on_dream: Callable[[Dream, float, int], object] | None = None
    ) -> DeepResult:
        """Run one cycle on this thread.

        Parameters
        ----------
        now : float, optional
            Seconds by which the age of memories is judged; default ``time.time()``.
        on_dream : callable, optional
            Called after each dream with the dream, its integration and the number of links it suggested.

        Returns
        -------
        DeepResult
            ``patterns_strengthened`` counts memories, ``patterns_pruned`` those merged into others or dropped.
        """
        with self._lock:
            start = time.monotonic()
            dreamt = integrated = strengthened = pruned = 0
            self._counts["cycles"] += 1

            def over() -> bool:
                return time.monotonic() - start >= self.config.max_cycle_s

            def result(status: str) -> DeepResult:
                self._counts["interrupted"] += status == "deadline"
                return DeepResult(dreamt, integrated, strengthened, pruned, time.monotonic() - start, status)

            for _ in range(self.config.dreams_per_cycle):
                if over():
                    return result("deadline")
                dream = self._engine.generate_dream()
                if not dream.path:
                    break
                dreamt += 1
                self._counts["dreams_generated"] += 1
                phi = self._phi.evaluate_dream(dream, self._engine)
                added = 0
                if phi >= self.config.phi_threshold:
                    added = self._engine.integrate_dream(dream)
                    integrated += 1
                    self._counts["dreams_integrated"] += 1
                    self._counts["edges_suggested"] += added
                else:
                    self._counts["dreams_rejected"] += 1
                if on_dream is not None:
                    on_dream(dream, phi, added)
            if over():
                return result("deadline")
            strengthened, dropped, merged, _, _ = self._engine.consolidate(
                self._consolidator, threshold=self.config.consolidation_threshold, now=now
            )
            pruned = dropped + merged
            if over():
                return result("deadline")
            if self._ewc is not None:
                self._ewc.consolidate_all_tasks()
            return result("complete" if dreamt or not self.config.dreams_per_cycle else "empty")

    def metrics(self) -> dict[str, int | float]:
        """Counters of all cycles, and those of the memory graph as ``graph_…``."""
        return {**self._counts, **{f"graph_{name}": value for name, value in self._engine.metrics().items()}}

    def to_bytes(self) -> bytes:
        """Return the whole state: settings, counters, memory graph, and the weight protection if there is one."""
        with self._lock:
            c = self._consolidator
            head = {
                "config": asdict(self.config),
                "counts": self._counts,
                "consolidator": {
                    "merge_similarity": c.merge_similarity,
                    "half_life_s": c.half_life_s,
                    "max_bytes": c.max_bytes,
                    "coverage": c.coverage,
                },
            }
            ewc = b"" if self._ewc is None else self._ewc.to_bytes()
            return pack([json.dumps(head).encode(), self._engine.to_bytes(), ewc])

    @classmethod
    def from_bytes(cls, data: bytes) -> DeepLoop:
        """Read back what :meth:`to_bytes` wrote; damaged or foreign bytes raise ``CorruptStateError``."""
        from sona.continual import EwcPlusPlus

        text, graph, ewc = unpack("DeepLoop", data, 3)
        try:
            head = json.loads(text)
            config = DeepLoopConfig(**head["config"])
            consolidator = MemoryConsolidator(**head["consolidator"])
            counts = {name: int(head["counts"][name]) for name in _COUNTS}
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise CorruptStateError(f"DeepLoop state: {error}") from error
        loop = cls(
            config,
            engine=DreamEngine.from_bytes(graph),
            ewc=EwcPlusPlus.from_bytes(ewc) if ewc else None,
            consolidator=consolidator,
        )
        loop._counts = counts
        return loop

    def __reduce__(self) -> tuple[Callable[[bytes], DeepLoop], tuple[bytes]]:
        return DeepLoop.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"DeepLoop(memories={self._engine.node_count}, cycles={self._counts['cycles']})"
