"""Settings of an engine, and presets for common situations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from sona import _core
from sona.exceptions import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["SonaConfig"]

Mode = Literal["off", "observe", "shadow", "canary", "on"]
_MB = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class SonaConfig:
    """Everything that shapes what an engine learns; checked when it is made.

    Two engines with equal settings and equal logs hold equal bits.

    Parameters
    ----------
    hidden_dim : int, default 256
        Length of every query and item vector (1 to 65,536). ``embedding_dim`` is the same number.
    micro_lora_rank : {1, 2}, default 2
        Rank of the adapter that learns within the request, from traces.
    base_lora_rank : int, default 8
        Rank of the adapter that the background cycle trains.
    micro_lora_lr : float, default 0.002
        AdamW step size of the per-request adapter, per entry and flush.
    base_lora_lr : float, default 1e-4
        AdamW step size of the background adapter. The cycle multiplies it by 50: with the small values that users of this
        design know, an adapter that starts at zero would not move within one cycle.
    ewc : bool, default False
        Hold the background adapter where earlier cycles left it, by EWC++, instead of training it anew on everything
        remembered. Off, because it adds nothing to replay: ``docs/explanation/forgetting.md``.
    ewc_lambda : float, default 2000
        Strength of that pull, for Fisher information of mean 1.
    pattern_clusters : int, default 100
        Clusters of one pattern extraction.
    trajectory_capacity : int, default 10,000
        Trajectories kept for the background cycle, and decisions kept in memory until their feedback comes.
    background_interval_ms : int, default 3,600,000
        Time between background cycles after ``engine.start()``, in milliseconds.
    quality_threshold : float, default 0.3
        Trajectories below this quality do not enter the pattern bank as successes.
    seed : int, default 0
        Seed of every random choice.
    mode : {"off", "observe", "shadow", "canary", "on"}, default "on"
        How much of what was learned may act. ``off``: identity, nothing recorded. ``observe``: identity, recorded, not
        learned. ``shadow``: identity, learned and scored. ``canary``: acts on ``canary_share`` of the decisions.
    canary_share : float, default 0.1
        Share of decisions that act in canary mode.
    exploration : {"none", "epsilon", "softmax"}, default "none"
        ``epsilon``: with probability ``exploration_rate`` a random candidate takes the first place. ``softmax``: the shown
        list is drawn from the scores at temperature ``exploration_rate``. Propensities are logged in every case.
    exploration_rate : float, default 0.05
        ε, or the temperature.
    eta : float, default 0.8
        Step size of the kernel adapter.
    recall_weight : float, default 0.2
        Weight of normalised recall.
    neighbors : int, default 128
        Nearest remembered cases that count.
    gate : {"evidence", "multiplier", "off"}, default "evidence"
        How items without feedback keep their chance.
    gate_nu : float, default 0.3
        Assumed share of traffic that wants items without feedback.
    case_bytes : int or None, default 256 MiB
        Bytes of remembered cases per scope; None is unbounded.
    case_half_life_days : float or None, default None
        Days in which what a remembered case counts halves: its weight in the adapter and in recall is multiplied by
        2 ** (-age / half-life). Age is the time (``now=``) of the latest learned feedback of the scope less the case's: no wall
        clock moves it. None: cases do not age.
    item_bytes : int, default 512 MiB
        Bytes of item vectors kept per scope; the oldest go first and are learned again when they come back.
    journal_bytes : int, default 256 MiB
        Bytes of the in-memory journal of an engine without a store.
    max_scopes : int, default 100,000
        Scopes at most.
    user_cap_per_minute : int, default 600
        Feedback per user and minute that is learned from; more is recorded and counted. 0 means no cap.
    source_caps : mapping of str to int
        Feedback per minute that is learned from, for the sources named here.
    source_trust : mapping of str to float
        Weight of each source's feedback, 0 to 1; sources not named have 1.
    learn_candidates : int, default 50
        Best candidates of a decision that take part in learning, besides those shown.
    harm_budget : float, default 0.05
        Greatest loss in DCG per request that what was learned may cost. Live: the loss of items ranked as if they had never had
        feedback, times ``gate_nu``, and the loss on the anchors (``set_anchors``). Where one of them is surely (95 %) above the
        budget, less of what was learned acts: ¾, ½, ¼ or none of it, until it fits. ``promote`` and the background cycle also
        refuse what costs more. 1 or more never holds anything back live.
    decision_ttl_s : float, default 604,800 (7 days)
        Seconds after a decision in which its feedback is learned from; later feedback is recorded and counted. ``inf``: always.
    min_users : int, default 1
        Distinct users that must have chosen an item before its recall counts, so that one account cannot push an item. The
        kernel adapter learns from each of them all the same. Feedback without a user counts as one user.
    fsync : {"always", "group", "none"}, default "group"
        When the event log is forced to the disk. A killed process loses nothing under any of them; a power cut can lose the
        last 100 ms under "group".

    Examples
    --------
    >>> SonaConfig(hidden_dim=384).embedding_dim
    384
    >>> SonaConfig.edge_deployment(hidden_dim=128).micro_lora_rank
    1
    """

    hidden_dim: int = 256
    micro_lora_rank: int = 2
    base_lora_rank: int = 8
    micro_lora_lr: float = 0.002
    base_lora_lr: float = 1e-4
    ewc: bool = False
    ewc_lambda: float = 2000.0
    pattern_clusters: int = 100
    trajectory_capacity: int = 10_000
    background_interval_ms: int = 3_600_000
    quality_threshold: float = 0.3
    seed: int = 0
    mode: Mode = "on"
    canary_share: float = 0.1
    exploration: Literal["none", "epsilon", "softmax"] = "none"
    exploration_rate: float = 0.05
    eta: float = 0.8
    recall_weight: float = 0.2
    neighbors: int = 128
    gate: Literal["evidence", "multiplier", "off"] = "evidence"
    gate_nu: float = 0.3
    case_bytes: int | None = 256 * _MB
    case_half_life_days: float | None = None
    item_bytes: int = 512 * _MB
    journal_bytes: int = 256 * _MB
    max_scopes: int = 100_000
    user_cap_per_minute: int = 600
    source_caps: Mapping[str, int] = field(default_factory=dict)
    source_trust: Mapping[str, float] = field(default_factory=dict)
    learn_candidates: int = 50
    harm_budget: float = 0.05
    decision_ttl_s: float = 604_800.0
    min_users: int = 1
    fsync: Literal["always", "group", "none"] = "group"

    def __post_init__(self) -> None:
        """Refuse values that no part of the engine could use."""
        for name in ("ewc_lambda", "background_interval_ms", "exploration_rate"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not (0 < value < math.inf or (value == 0 and name == "exploration_rate")):
                raise ConfigError(f"{name}: expected a finite number above 0, got {value!r}")
        maps: dict[str, dict[str, Any]] = {}
        for name in ("source_caps", "source_trust"):
            try:
                maps[name] = dict(getattr(self, name))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{name}: expected a mapping of sources, got {getattr(self, name)!r}") from error
        _core.check_settings({**self.to_dict(), **maps, "fingerprint": ""})

    @property
    def embedding_dim(self) -> int:
        """Length of every vector; the same number as ``hidden_dim``."""
        return self.hidden_dim

    def replace(self, **changes: Any) -> SonaConfig:
        """Copy with some fields changed.

        >>> SonaConfig().replace(seed=7).seed
        7
        """
        return replace(self, **changes)

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SonaConfig:
        """Build from plain values; an unknown field raises ConfigError.

        >>> SonaConfig.from_dict({"hidden_dim": 8}).hidden_dim
        8
        """
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigError(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(known))}")
        return cls(**dict(values))

    @classmethod
    def from_toml(cls, path: str | Path) -> SonaConfig:
        """Read the fields from a TOML file (top level, or under ``[sona]``)."""
        import tomllib  # few programs read a file: not at import

        with open(path, "rb") as f:
            values = tomllib.load(f)
        section = values.get("sona", values)
        if not isinstance(section, dict):
            raise ConfigError(f"sona: expected a table in {path}, got {type(section).__name__}")
        return cls.from_dict(section)

    @classmethod
    def max_throughput(cls, *, hidden_dim: int = 256, **changes: Any) -> SonaConfig:
        """Least work per request."""
        return cls(hidden_dim=hidden_dim).replace(
            **{
                "base_lora_rank": 4,
                "micro_lora_lr": 0.0005,
                "trajectory_capacity": 5_000,
                "background_interval_ms": 7_200_000,
                "quality_threshold": 0.4,
                "neighbors": 64,
                **changes,
            }
        )

    @classmethod
    def max_quality(cls, *, hidden_dim: int = 256, **changes: Any) -> SonaConfig:
        """More capacity, more frequent background cycles."""
        return cls(hidden_dim=hidden_dim).replace(
            **{
                "base_lora_rank": 16,
                "base_lora_lr": 1e-3,
                "trajectory_capacity": 20_000,
                "background_interval_ms": 1_800_000,
                "quality_threshold": 0.2,
                **changes,
            }
        )

    @classmethod
    def edge_deployment(cls, *, hidden_dim: int = 256, **changes: Any) -> SonaConfig:
        """Keep the whole engine under 5 MB."""
        return cls(hidden_dim=hidden_dim).replace(
            **{
                "micro_lora_rank": 1,
                "base_lora_rank": 4,
                "micro_lora_lr": 0.001,
                "ewc_lambda": 1000.0,
                "pattern_clusters": 50,
                "trajectory_capacity": 200,
                "quality_threshold": 0.5,
                "case_bytes": 3 * _MB // 2,
                "item_bytes": _MB,
                "journal_bytes": _MB,
                "max_scopes": 1,
                **changes,
            }
        )

    @classmethod
    def batch_processing(cls, *, hidden_dim: int = 256, **changes: Any) -> SonaConfig:
        """Smaller steps for long offline runs."""
        return cls(hidden_dim=hidden_dim).replace(**{"micro_lora_lr": 0.001, **changes})

    @classmethod
    def for_ephemeral(cls, *, hidden_dim: int = 256, **changes: Any) -> SonaConfig:
        """Short-lived workers that report to a coordinator."""
        return cls(hidden_dim=hidden_dim).replace(
            **{
                "base_lora_rank": 4,
                "ewc_lambda": 1000.0,
                "pattern_clusters": 50,
                "trajectory_capacity": 500,
                "background_interval_ms": 60_000,
                **changes,
            }
        )

    @classmethod
    def for_coordinator(cls, *, hidden_dim: int = 256, **changes: Any) -> SonaConfig:
        """The process that collects what the workers learned."""
        return cls(hidden_dim=hidden_dim).replace(
            **{
                "base_lora_rank": 16,
                "micro_lora_lr": 0.001,
                "base_lora_lr": 5e-4,
                "pattern_clusters": 200,
                "trajectory_capacity": 50_000,
                "background_interval_ms": 300_000,
                "quality_threshold": 0.4,
                **changes,
            }
        )
