"""Loop B: patterns and the slow adapter, from trajectories, within a deadline. Public as ``sona.loops``."""

from __future__ import annotations

import json
import math
import operator
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from sona._sealed import pack, unpack
from sona.continual import EwcConfig, EwcPlusPlus, PriorityReplayBuffer
from sona.exceptions import ConfigError, CorruptStateError, DimensionMismatch
from sona.lora import BaseLoRA
from sona.patterns import PatternConfig, ReasoningBank, Verdict
from sona.trajectory import QueryTrajectory, TrajectoryBuffer

__all__ = ["BackgroundLoop", "BackgroundLoopConfig", "BackgroundResult"]

#: Pairs kept for replay.
REPLAY = 10_000
BATCH = 64
TEMPERATURE = 0.05
#: Times that each new pair is drawn on average.
PASSES = 2
#: Rewards above this are worth moving towards.
NEUTRAL = 0.5
#: Trajectories taken in between two looks at the clock.
STRIDE = 256


@dataclass(frozen=True, kw_only=True, slots=True)
class BackgroundLoopConfig:
    """Settings of the background loop.

    Parameters
    ----------
    extraction_interval_s : float, default 3600.0
        Seconds between cycles; a coordinator runs one earlier when ``min_trajectories`` have come.
    min_trajectories : int, default 100
        Fewer are kept for the next cycle.
    base_lora_lr : float, default 1e-4
        AdamW's step size of the slow adapter.
    ewc_lambda : float, default 1000.0
        Strength of the pull towards earlier tasks; 0 switches it off.
    deadline_s : float, default 30.0
        Seconds after which a cycle stops; the next call goes on where it stopped.
    base_lora_rank : int, default 8
        Rank of the slow adapter.

    Raises
    ------
    ConfigError
        A setting is out of range.
    """

    extraction_interval_s: float = 3600.0
    min_trajectories: int = 100
    base_lora_lr: float = 1e-4
    ewc_lambda: float = 1000.0
    deadline_s: float = 30.0
    base_lora_rank: int = 8

    def __post_init__(self) -> None:
        for name in ("min_trajectories", "base_lora_rank"):
            if operator.index(getattr(self, name)) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("extraction_interval_s", "base_lora_lr", "ewc_lambda", "deadline_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise ConfigError(f"{name}: expected a finite number, 0 or more, got {value}")


@dataclass(frozen=True, slots=True)
class BackgroundResult:
    """What one call of the background loop did.

    ``status`` is "done"; "waiting" if there were too few trajectories, which are kept; or "partial" if time was up, and the
    next call goes on.
    """

    trajectories_processed: int
    patterns_extracted: int
    elapsed_s: float
    status: str


class BackgroundLoop:
    """Loop B: drain, judge, cluster into patterns, train the slow adapter, hold what earlier tasks need.

    A trajectory that is not judged a failure, with a step rewarded above 0.5, gives a pair to learn from: its query and the
    activations of its best step. Pairs go into a prioritised replay buffer of 10,000; batches of 64 train ``base_lora`` on the
    in-batch InfoNCE loss, and what is still far from its target is drawn more often. Per-sample gradients feed ``ewc``: a task
    boundary is looked for in their mean, an ended task is remembered, and each step is followed by a proximal pull.

    Runs on the caller's thread; a second cycle waits for the first. Readers of ``reasoning_bank`` and ``base_lora`` do not
    wait for a cycle.

    Parameters
    ----------
    config : BackgroundLoopConfig, optional
    hidden_dim : int, default 256
        Length of the query vectors.

    Raises
    ------
    ConfigError
        A setting is out of range.

    References
    ----------
    van den Oord et al. 2018 (InfoNCE); Schaul et al. 2016 (prioritised replay); see ``sona.continual`` and ``sona.patterns``.

    Examples
    --------
    >>> import numpy as np
    >>> from sona.loops import BackgroundLoop, BackgroundLoopConfig
    >>> from sona.trajectory import QueryTrajectory, TrajectoryStep
    >>> rng = np.random.default_rng(0)
    >>> loop = BackgroundLoop(BackgroundLoopConfig(min_trajectories=20), 8)
    >>> def request(i):
    ...     query, answer = rng.normal(size=(2, 8))
    ...     return QueryTrajectory(i, query, (TrajectoryStep(answer, [], reward=0.9),), 0.9)
    >>> loop.run_cycle([request(i) for i in range(15)]).status
    'waiting'
    >>> result = loop.run_cycle([request(i) for i in range(15, 30)])
    >>> result.status, result.trajectories_processed
    ('done', 30)
    >>> bool(loop.base_lora.factors(0)[1].any())
    True
    """

    def __init__(self, config: BackgroundLoopConfig | None = None, hidden_dim: int = 256) -> None:
        self.config = BackgroundLoopConfig() if config is None else config
        self.hidden_dim = hidden_dim
        rank = self.config.base_lora_rank
        self._base = BaseLoRA(hidden_dim, rank, learning_rate=self.config.base_lora_lr)
        self._bank = ReasoningBank(PatternConfig(embedding_dim=hidden_dim))
        strength = self.config.ewc_lambda
        self._ewc = EwcPlusPlus(
            EwcConfig(
                param_count=2 * rank * hidden_dim,
                initial_lambda=strength,
                min_lambda=min(100.0, strength),
                max_lambda=max(10_000.0, strength) if strength else 0.0,
            )
        )
        self._replay = PriorityReplayBuffer(REPLAY)
        self._waiting = TrajectoryBuffer()
        self._steps_left = 0
        self._taken = 0  # trajectories of the unfinished cycle that are in the bank
        self._open = False  # a cycle has begun and not ended
        self._cycles = self._pairs = self._without_pair = 0
        self._lock = threading.RLock()

    @property
    def reasoning_bank(self) -> ReasoningBank:
        """The patterns."""
        return self._bank

    @property
    def ewc(self) -> EwcPlusPlus:
        """What holds earlier tasks."""
        return self._ewc

    @property
    def base_lora(self) -> BaseLoRA:
        """The slow adapter."""
        return self._base

    @property
    def pending(self) -> int:
        """Trajectories that wait for a cycle."""
        return len(self._waiting)

    @property
    def unfinished(self) -> bool:
        """True after a call that ran out of time."""
        return self._open

    def run_cycle(
        self,
        trajectories: Iterable[QueryTrajectory] = (),
        *,
        deadline_s: float | None = None,
        should_stop: Callable[[], bool] | None = None,
        now: float | None = None,
    ) -> BackgroundResult:
        """Learn from these trajectories and from those that were kept.

        Cost: clustering of O(n · k · d) per pass, and about n / 32 training steps of O(64² · d).

        Parameters
        ----------
        trajectories : iterable of QueryTrajectory
            Oldest first. All are refused if one has another dimension.
        deadline_s : float, optional
            Instead of the configured one.
        should_stop : callable, optional
            Asked as often as the clock; True ends the call as a deadline does.
        now : float, optional
            Seconds that patterns are stamped with; default ``time.time()``.

        Returns
        -------
        BackgroundResult

        Raises
        ------
        DimensionMismatch
        """
        start = time.perf_counter()
        new = list(trajectories)
        for t in new:
            if len(t.query_embedding) != self.hidden_dim:
                raise DimensionMismatch(f"query_embedding: expected dimension {self.hidden_dim}, got {len(t.query_embedding)}")
        end = start + (self.config.deadline_s if deadline_s is None else deadline_s)

        def late() -> bool:
            return time.perf_counter() > end or (should_stop is not None and should_stop())

        def result(status: str, patterns: int = 0) -> BackgroundResult:
            taken, self._taken = self._taken, 0
            return BackgroundResult(taken, patterns, time.perf_counter() - start, status)

        with self._lock:
            for t in new:
                self._waiting.record(t)
            if not self._open:
                if len(self._waiting) < self.config.min_trajectories:
                    return result("waiting")
                self._open = True
            while chunk := self._waiting.drain(STRIDE):
                self._take_in(chunk)
                if late():
                    return result("partial")
            while self._steps_left:
                self._step()
                self._steps_left -= 1
                if late():
                    return result("partial")
            found = len(self._bank.extract_patterns(now=now))
            self._open = False
            self._cycles += 1
            return result("done", found)

    def _take_in(self, chunk: list[QueryTrajectory]) -> None:
        pairs = 0
        for t in chunk:
            self._bank.add_trajectory(t)
            best = max(t.steps, key=lambda s: s.reward, default=None)
            if best is None or best.reward <= NEUTRAL or self._bank.judge(t) is Verdict.FAILURE:
                self._without_pair += 1
                continue
            self._replay.add(np.stack([t.query_embedding, best.activations]))
            pairs += 1
        self._taken += len(chunk)
        self._pairs += pairs
        self._steps_left += math.ceil(PASSES * pairs / BATCH)

    def _step(self) -> None:
        batch = self._replay.sample(BATCH)
        # A pair that was drawn twice, or two pairs with one target, would be each other's negatives.
        fresh: dict[bytes, int] = {}
        for i, pair in enumerate(batch.items):
            fresh.setdefault(pair[1].tobytes(), i)
        chosen = np.fromiter(fresh.values(), np.int64)
        pairs = np.stack([batch.items[i] for i in chosen])
        queries, targets = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
        if self.config.ewc_lambda:
            rows = self._base.sample_gradients(0, queries, targets, temperature=TEMPERATURE)
            if self._ewc.detect_task_boundary(rows.mean(axis=0)):
                a, b = self._base.factors(0)
                self._ewc.start_new_task(params=np.concatenate([a.ravel(), b.ravel()]))
            self._ewc.update_fisher(rows)
        self._base.train_step(0, queries, targets, temperature=TEMPERATURE, ewc=self._ewc if self.config.ewc_lambda else None)
        self._replay.update_priorities(batch.indices[chosen], 1.0 - _cosines(self._base.forward_layer(0, queries), targets))

    def metrics(self) -> dict[str, int | float]:
        """Counters of the loop (``cycles``, ``pending``, ``pairs``, …) and of its parts (``bank_…``, ``ewc_…``, …)."""
        parts = {
            "bank": self._bank.metrics(),
            "base": self._base.metrics(),
            "ewc": self._ewc.metrics(),
            "replay": self._replay.metrics(),
            "waiting": self._waiting.metrics(),
        }
        merged = {f"{name}_{key}": value for name, values in parts.items() for key, value in values.items()}
        return {
            "cycles": self._cycles,
            "pending": self.pending,
            "pairs": self._pairs,
            "without_pair": self._without_pair,
            "steps_left": self._steps_left,
            **merged,
        }

    def to_bytes(self) -> bytes:
        """Return the whole state, an unfinished cycle included; going on after reading it back equals never having stopped."""
        with self._lock:
            head = {
                "config": asdict(self.config),
                "open": self._open,
                "counts": [self._steps_left, self._taken, self._cycles, self._pairs, self._without_pair],
            }
            return pack(
                [
                    json.dumps(head).encode(),
                    *(part.to_bytes() for part in (self._bank, self._ewc, self._base, self._waiting)),
                    self._replay.to_bytes(lambda pair: pair.tobytes()),
                ]
            )

    @classmethod
    def from_bytes(cls, data: bytes) -> BackgroundLoop:
        """Read back what :meth:`to_bytes` wrote; damaged or foreign bytes raise ``CorruptStateError``."""
        head_bytes, bank, ewc, base, waiting, replay = unpack("BackgroundLoop", data, 6)
        lora = BaseLoRA.from_bytes(base)

        def pair(raw: bytes) -> npt.NDArray[np.float32]:
            values = np.frombuffer(raw, np.float32)
            if values.size != 2 * lora.hidden_dim or not np.isfinite(values).all():
                raise CorruptStateError("BackgroundLoop state: a replayed pair of another dimension")
            return values.reshape(2, lora.hidden_dim)

        try:
            head = json.loads(head_bytes)
            loop = cls(BackgroundLoopConfig(**head["config"]), lora.hidden_dim)
            steps, taken, cycles, pairs, without = (int(n) for n in head["counts"])
            is_open = bool(head["open"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptStateError(f"BackgroundLoop state: {error}") from error
        if lora.rank != loop.config.base_lora_rank or min(steps, taken, cycles, pairs, without) < 0:
            raise CorruptStateError("BackgroundLoop state: the parts do not fit")
        loop._base = lora
        loop._bank, loop._ewc = ReasoningBank.from_bytes(bank), EwcPlusPlus.from_bytes(ewc)
        if len(loop._ewc.params) != 2 * lora.rank * lora.hidden_dim:
            raise CorruptStateError("BackgroundLoop state: the parts do not fit")
        loop._waiting = TrajectoryBuffer.from_bytes(waiting)
        loop._replay = PriorityReplayBuffer.from_bytes(replay, pair)
        if steps and not len(loop._replay):
            raise CorruptStateError("BackgroundLoop state: nothing to replay")
        loop._steps_left, loop._taken, loop._cycles, loop._pairs, loop._without_pair = steps, taken, cycles, pairs, without
        loop._open = is_open
        return loop

    def __reduce__(self) -> tuple[Callable[[bytes], BackgroundLoop], tuple[bytes]]:
        return BackgroundLoop.from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"BackgroundLoop(hidden_dim={self.hidden_dim}, pending={self.pending}, patterns={len(self._bank.patterns)})"


def _cosines(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray(np.einsum("ij,ij->i", a, b) / np.maximum(norms, 1e-12), np.float64)
