"""Learning that never delays serving: the instant loop, the background loop, and who runs them.

:class:`InstantLoop` learns within the request, :class:`BackgroundLoop` between requests, and :class:`LoopCoordinator` gives
each its time.
"""

from __future__ import annotations

import json
import math
import operator
import threading
import time
from collections.abc import Callable, Hashable, Iterable
from dataclasses import asdict, dataclass

from sona._background_loop import BackgroundLoop, BackgroundLoopConfig, BackgroundResult
from sona._coordinator import Circadian, LoopCoordinator
from sona._deep_loop import DeepLoop, DeepLoopConfig, DeepResult
from sona._sealed import pack, unpack
from sona.dreams import EdgeWeights
from sona.exceptions import ConfigError, CorruptStateError
from sona.lora import MicroLoRA
from sona.trajectory import LearningSignal, QueryTrajectory, RewardBaseline, TrajectoryBuffer

__all__ = [
    "BackgroundLoop",
    "BackgroundLoopConfig",
    "BackgroundResult",
    "Circadian",
    "DeepLoop",
    "DeepLoopConfig",
    "DeepResult",
    "FlushReport",
    "InstantLoop",
    "InstantLoopConfig",
    "LoopCoordinator",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class InstantLoopConfig:
    """Settings of the instant loop.

    Parameters
    ----------
    micro_lora_rank : int, default 1
        1 or 2.
    micro_lora_lr : float, default 0.001
        Learning rate of the fast adapter.
    edge_update_scale : float, default 0.01
        Change of a co-retrieval edge at quality 1.
    max_pending_signals : int, default 1000
        A flush happens at the latest at this many signals.
    flush_every : int, default 16
        Signals after which the fast adapter steps.
    flush_ms : float, default 50.0
        Milliseconds after which it steps at the next call, however few signals came.

    Raises
    ------
    ConfigError
        A count below 1 or a negative duration.
    """

    micro_lora_rank: int = 1
    micro_lora_lr: float = 0.001
    edge_update_scale: float = 0.01
    max_pending_signals: int = 1000
    flush_every: int = 16
    flush_ms: float = 50.0

    def __post_init__(self) -> None:
        if operator.index(self.micro_lora_rank) not in (1, 2):
            raise ConfigError(f"micro_lora_rank: expected 1 or 2, got {self.micro_lora_rank}")
        for name in ("max_pending_signals", "flush_every"):
            if operator.index(getattr(self, name)) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("micro_lora_lr", "edge_update_scale"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name}: expected a finite number, 0 or more, got {getattr(self, name)}")
        if not self.flush_ms >= 0.0:
            raise ConfigError(f"flush_ms: expected 0 or more, got {self.flush_ms}")


@dataclass(frozen=True, slots=True)
class FlushReport:
    """What one flush did: signals taken in since the last one, edges committed, and whether the fast adapter stepped."""

    signals: int
    edges: int
    applied: bool


class InstantLoop:
    """Loop A: learns from each finished request within a millisecond, on the caller's thread.

    A trajectory is buffered for the background loop, and its learning signal waits for the next flush: every
    ``flush_every`` signals, or at the first call after ``flush_ms``. A flush publishes the stepped adapter whole, so
    readers of ``micro_lora`` never see half a step. Safe to share between threads.

    Parameters
    ----------
    hidden_dim : int
        Length of the query vectors.
    config : InstantLoopConfig, optional
    baseline : RewardBaseline, optional
        What rewards are judged against; read before each quality enters it. Default: the constant 0.5.

    Raises
    ------
    ConfigError
        A setting is out of range.

    Examples
    --------
    >>> from sona.trajectory import TrajectoryBuilder
    >>> loop = InstantLoop(2)
    >>> builder = TrajectoryBuilder(0, [1.0, 0.0])
    >>> builder.add_step([0.0, 1.0], [], reward=1.0)
    >>> loop.on_inference(builder.build(1.0), item_ids=["a", "b"])
    >>> loop.flush_updates()
    FlushReport(signals=1, edges=1, applied=True)
    >>> bool(loop.micro_lora.delta([1.0, 0.0])[1] > 0)
    True
    """

    def __init__(
        self,
        hidden_dim: int,
        config: InstantLoopConfig | None = None,
        *,
        baseline: RewardBaseline | None = None,
    ) -> None:
        self.config = config if config is not None else InstantLoopConfig()
        self._lora = MicroLoRA(hidden_dim, self.config.micro_lora_rank, learning_rate=self.config.micro_lora_lr)
        self._edges = EdgeWeights()
        self._buffer = TrajectoryBuffer()
        self._baseline = baseline
        self._signals = 0
        self._lock = threading.Lock()
        self._last_flush: float | None = None
        self._flushes = 0

    def on_inference(
        self,
        trajectory: QueryTrajectory,
        *,
        item_ids: Iterable[Hashable] = (),
        now: float | None = None,
    ) -> None:
        """Take in one finished request; flushes if one is due.

        Parameters
        ----------
        trajectory : QueryTrajectory
            The finished request, with a query of ``hidden_dim``.
        item_ids : iterable of hashable, optional
            What the request retrieved; each pair's edge follows the final quality.
        now : float, optional
            Seconds; default ``time.time()``.

        Raises
        ------
        DimensionMismatch
            The trajectory is not of this loop's dimension; nothing is stored then.
        """
        now = time.time() if now is None else now
        # The baseline is read before this reward enters it, otherwise the reward would be compared with itself.
        against = 0.5 if self._baseline is None else self._baseline.read()
        self._lora.accumulate_gradient(LearningSignal.from_trajectory(trajectory, baseline=against))
        if self._baseline is not None:
            self._baseline.update(trajectory.final_quality)
        ids = list(item_ids)
        if len(ids) > 1:
            self._edges.update_from_signal(ids, trajectory.final_quality, self.config.edge_update_scale)
        self._buffer.record(trajectory)
        with self._lock:
            self._signals += 1
            if self._last_flush is None:
                self._last_flush = now
            due = (
                self._signals >= min(self.config.flush_every, self.config.max_pending_signals)
                or (now - self._last_flush) * 1e3 >= self.config.flush_ms
            )
        if due:
            self.flush_updates(now=now)

    def flush_updates(self, *, now: float | None = None) -> FlushReport:
        """Step the fast adapter with what is pending and commit the edges.

        Parameters
        ----------
        now : float, optional
            Seconds; default ``time.time()``.

        Returns
        -------
        FlushReport
        """
        with self._lock:
            self._last_flush = time.time() if now is None else now
            self._flushes += 1
            signals, self._signals = self._signals, 0
        step = self._lora.apply_accumulated()
        return FlushReport(signals, self._edges.commit(), step.applied)

    def drain_trajectories(self) -> list[QueryTrajectory]:
        """Hand over and forget the buffered trajectories, oldest first."""
        return self._buffer.drain()

    @property
    def buffered(self) -> int:
        """Trajectories that wait for the background loop."""
        return len(self._buffer)

    @property
    def waiting(self) -> bool:
        """True while signals wait for a flush."""
        return self._signals > 0

    @property
    def micro_lora(self) -> MicroLoRA:
        """The fast adapter."""
        return self._lora

    @property
    def edges(self) -> EdgeWeights:
        """The co-retrieval edges."""
        return self._edges

    def metrics(self) -> dict[str, int | float]:
        """Counters of the loop and its parts: ``flushes``, ``signals``, ``lora_…``, ``edges_…``, ``buffer_…``."""
        parts = {"lora": self._lora.metrics(), "edges": self._edges.metrics(), "buffer": self._buffer.metrics()}
        merged = {f"{part}_{name}": value for part, values in parts.items() for name, value in values.items()}
        return {"flushes": self._flushes, "signals": self._signals, **merged}

    def to_bytes(self) -> bytes:
        """Return the whole state: settings, adapter, edges, buffered trajectories, and the baseline if there is one."""
        with self._lock:
            head = {
                "config": asdict(self.config),
                "flushes": self._flushes,
                "signals": self._signals,
                "last_flush": self._last_flush,
            }
        parts = [
            json.dumps(head).encode(),
            *(part.to_bytes() for part in (self._lora, self._edges, self._buffer)),
            b"" if self._baseline is None else self._baseline.to_bytes(),
        ]
        return pack(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> InstantLoop:
        """Read back what :meth:`to_bytes` wrote; damaged or foreign bytes raise ``CorruptStateError``."""
        parts = unpack("InstantLoop", data, 5)
        try:
            head = json.loads(parts[0])
            config = InstantLoopConfig(**head["config"])
            flushes, signals, last = int(head["flushes"]), int(head["signals"]), head["last_flush"]
            last_flush = None if last is None else float(last)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptStateError(f"InstantLoop state: {error}") from error
        lora = MicroLoRA.from_bytes(parts[1])
        if lora.rank != config.micro_lora_rank:
            raise CorruptStateError("InstantLoop state: the adapter has another rank")
        baseline = RewardBaseline.from_bytes(parts[4]) if parts[4] else None
        loop = cls(lora.hidden_dim, config, baseline=baseline)
        loop._lora = lora
        loop._edges = EdgeWeights.from_bytes(parts[2])
        loop._buffer = TrajectoryBuffer.from_bytes(parts[3])
        loop._flushes, loop._signals, loop._last_flush = flushes, signals, last_flush
        return loop

    def __reduce__(self) -> tuple[Callable[[bytes], InstantLoop], tuple[bytes]]:
        return InstantLoop.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"InstantLoop(hidden_dim={self._lora.hidden_dim}, signals={self._signals})"
