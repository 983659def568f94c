"""Bad input to the components, as section 0 of their contract says: named errors, never an abort or a silent NaN."""

from __future__ import annotations

import numpy as np
import pytest

import sona.control as control
from sona import CapacityError, ConfigError, CorruptStateError, NotFiniteError, SonaConfig, SonaEngine
from sona.continual import BoundaryDetector, EwcConfig, PriorityReplayBuffer
from sona.dreams import DreamConfig, DreamEngine, MemoryConsolidator, random_walk_with_restart
from sona.loops import BackgroundLoop, BackgroundLoopConfig, DeepLoop, DeepLoopConfig, InstantLoop, InstantLoopConfig
from sona.lora import SGD, Adagrad, AdamW
from sona.patterns import CaseMemory, ItemGate, LearnedPattern, PatternConfig, ReasoningBank, kmeans
from sona.plasticity import BTSPLayer, BTSPMemory, EpropLayer
from sona.routing import FastGRNN, KnnRouter, LinUCB, TinyDancerRouter
from sona.trajectory import LearningSignal, QueryTrajectory, TrajectoryBuilder

NAN, INF, BILLION = float("nan"), float("inf"), 10**9


def replay():
    buffer = PriorityReplayBuffer(4)
    buffer.add("x")
    return buffer


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ConfigError, lambda: SGD(BILLION)),
        (ConfigError, lambda: Adagrad(10**18)),
        (ConfigError, lambda: AdamW(BILLION)),
        (ConfigError, lambda: EwcConfig(param_count=BILLION)),
        (ConfigError, lambda: BoundaryDetector(BILLION)),
        (ConfigError, lambda: CaseMemory(BILLION)),
        (ConfigError, lambda: PatternConfig(embedding_dim=BILLION)),
        (ConfigError, lambda: FastGRNN(50_000, 50_000)),
        (ConfigError, lambda: control.AdaptiveArchitecture({"a": [1]}, population=BILLION)),
        (CapacityError, lambda: replay().sample(BILLION)),
        (CapacityError, lambda: replay().sample(10**18)),
        (CapacityError, lambda: DreamEngine().generate_dreams(BILLION)),
    ],
)
def test_huge_sizes_are_errors(error, call):
    with pytest.raises(error):
        call()


PATTERN = {"id": 0, "centroid": [1.0], "cluster_size": 2, "total_weight": 1.0, "avg_quality": 0.5}
QUERY, ROWS = [1.0, 0.0], [[1.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    "call",
    [
        *(lambda k=k, v=v: LearnedPattern(**{**PATTERN, k: v}) for k in ("avg_quality", "total_weight") for v in (NAN, INF)),
        lambda: LearnedPattern(**PATTERN, quality_var=NAN),
        lambda: LearnedPattern(**PATTERN).quality_lower_bound(NAN),
        lambda: LearnedPattern(**PATTERN).should_prune(NAN, 1),
        lambda: control.tension(NAN, 1.0, 1.0),
        lambda: control.tension(1.0, NAN, 1.0),
        lambda: control.tension(1.0, 1.0, NAN),
        lambda: control.EventBus().publish(control.Event(control.EventKind.HEAL), now=NAN),
        lambda: control.CoherenceMonitor(control.MinCut(3)).observe(loss=NAN),
        *(
            lambda k=k, v=v: LearningSignal.from_ranking(QUERY, ROWS[0], ROWS, loss="triplet", **{k: v})
            for k in ("temperature", "margin", "sigma")
            for v in (NAN, -INF)
        ),
        lambda: LearningSignal.from_trajectory(QueryTrajectory(0, QUERY, (), 0.5), baseline=NAN),
    ],
)
def test_numbers_that_are_none_are_named(call):
    with pytest.raises(NotFiniteError):
        call()


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (ConfigError, lambda: LearnedPattern(**{**PATTERN, "avg_quality": 1.5})),
        (ConfigError, lambda: LearnedPattern(**{**PATTERN, "cluster_size": -1})),
        (ConfigError, lambda: LearnedPattern(**PATTERN, access_count=-1)),
        (ConfigError, lambda: InstantLoopConfig(micro_lora_rank=3)),
        (ConfigError, lambda: InstantLoopConfig(micro_lora_lr=NAN)),
        (ConfigError, lambda: InstantLoopConfig(edge_update_scale=INF)),
        (TypeError, lambda: InstantLoopConfig(flush_every=1.5)),
        (TypeError, lambda: BackgroundLoopConfig(min_trajectories=NAN)),
        (TypeError, lambda: DeepLoopConfig(dreams_per_cycle=INF)),
        (TypeError, lambda: TrajectoryBuilder("a", QUERY)),
        (TypeError, lambda: TrajectoryBuilder(1, QUERY, scope=None)),
        *(
            (ConfigError, lambda k=k, v=v: SonaConfig(**{k: v}))
            for k, bad in {
                "hidden_dim": (0, -1, 1.5, BILLION, None, "256"),
                "micro_lora_rank": (0, 3),
                "base_lora_lr": (-1.0, NAN),
                "exploration_rate": (-1.0, NAN, None),
                "background_interval_ms": (0, INF, None),
                "source_caps": (None, 3),
                "mode": ("loud",),
                "fsync": ("maybe",),
            }.items()
            for v in bad
        ),
        (ConfigError, lambda: SonaConfig.max_quality(hidden_dim=0)),
        (ConfigError, lambda: control.CircadianController(manual="noon")),
        (TypeError, lambda: control.EventBus(NAN)),
        (TypeError, lambda: control.EventBus().publish("heal")),
        (TypeError, lambda: control.CoherenceMonitor(3)),
        (TypeError, lambda: control.HealingOrchestrator().add_action("a", 3, cost=1.0)),
        (TypeError, lambda: control.HealingOrchestrator().register("m", 3)),
        (TypeError, lambda: control.AdaptiveArchitecture({"a": [1]}, population=NAN)),
        (ValueError, lambda: control.AdaptiveArchitecture({"a": [1]}).evolve(lambda _: (0.0,), generations=-1)),
    ],
)
def test_what_cannot_be_meant_is_refused_at_once(error, call):
    with pytest.raises(error):
        call()


def test_an_infinite_value_is_missing_and_no_part_of_the_normal_state():
    healer = control.HealingOrchestrator()
    healer.register("m")
    assert healer.observe("m", INF, now=0.0) == []
    assert healer.metrics()["missing"] == 1


@pytest.mark.parametrize("pair", [list, np.array, tuple])
def test_pairs_may_be_any_sequence(pair):
    a = AdamW(2, betas=pair([0.5, 0.9])).step([1.0, 2.0], [3.0, -4.0])
    np.testing.assert_array_equal(a, AdamW(2, betas=(0.5, 0.9)).step([1.0, 2.0], [3.0, -4.0]))
    chosen = [LearningSignal.from_choice(QUERY, ROWS, 0, 1.0, propensity=0.9, ips_clip=p([0.5, 0.6])) for p in (pair, tuple)]
    assert chosen[0].metadata.loss == chosen[1].metadata.loss
    assert ItemGate(start=pair([0.1, 0.5])).metrics() == ItemGate(start=(0.1, 0.5)).metrics()


@pytest.mark.parametrize("optimiser", [SGD(3), Adagrad(3), AdamW(3)], ids=lambda o: type(o).__name__)
def test_every_flipped_bit_of_an_optimiser_is_seen(optimiser):
    optimiser.step([1.0, 2.0, 3.0], [0.1, 0.2, 0.3])
    whole = optimiser.to_bytes()
    assert type(optimiser).from_bytes(whole).to_bytes() == whole
    for i in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[i // 8] ^= 1 << (i % 8)
        with pytest.raises(CorruptStateError):
            type(optimiser).from_bytes(bytes(damaged))


NEGATIVE = [
    lambda: control.MinCut(-1),
    lambda: control.Ewma(warmup=-1),
    lambda: control.RobustZ(-1),
    lambda: control.RobustZ(min_count=-1),
    lambda: control.PageHinkley(min_instances=-1),
    *(lambda k=k: control.AnomalyDetector(**{k: -1}) for k in ("window", "agree", "within", "cooldown")),
    lambda: DreamEngine(seed=-1),
    lambda: DreamConfig(path_length=-1),
    lambda: DreamConfig(probation=-1),
    lambda: MemoryConsolidator(max_bytes=-1),
    lambda: MemoryConsolidator(coverage=-1),
    *(lambda a=a: BTSPLayer(*a) for a in ((-1,), (1, -1))),
    *(lambda a=a: BTSPMemory(*a) for a in ((-1, 1), (1, -1))),
    *(lambda a=a: EpropLayer(*a) for a in ((-1, 1, 1), (1, -1, 1), (1, 1, -1))),
    *(lambda k=k: TinyDancerRouter({"a": 1.0}, **{"dim": 2, k: -1}) for k in ("dim", "k", "seed")),
    *(lambda k=k: KnnRouter(["a"], **{"dim": 2, k: -1}) for k in ("dim", "k")),
    *(lambda k=k: FastGRNN(**{"n_in": 2, "n_hidden": 2, k: -1}) for k in ("n_in", "n_hidden", "rank_w", "rank_u", "seed")),
    *(lambda a=a: LinUCB(*a) for a in ((-1, 2), (2, -1))),
    lambda: PatternConfig(seed=-1),
    lambda: kmeans([[1.0]], 1, seed=-1),
]


@pytest.mark.parametrize("call", NEGATIVE)
def test_a_negative_setting_is_no_overflow(call):
    with pytest.raises(ConfigError):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: control.MinCut(3).set_edge(-1, 0, 1.0),
        lambda: control.MinCut(3).weight(0, -1),
        lambda: LinUCB(2, 2).update(-1, [1.0, 0.0], 1.0),
        lambda: random_walk_with_restart([[0.0, 1.0], [1.0, 0.0]], -1),
        lambda: DreamEngine().tick(-1),
        lambda: DreamEngine().generate_dreams(-1),
        lambda: ReasoningBank(PatternConfig()).prune(0.5, -1),
        lambda: SonaEngine().rollback(-1),
    ],
)
def test_a_negative_argument_is_a_value_error(call):
    with pytest.raises(ValueError, match="-1"):
        call()


def test_what_is_not_there_is_not_found():
    assert ReasoningBank(PatternConfig()).get_pattern(-1) is None
    with pytest.raises(TypeError, match="fingerprint"):
        SonaEngine(embedder=len)


@pytest.mark.parametrize(
    "make", [lambda: InstantLoop(3), lambda: BackgroundLoop(BackgroundLoopConfig(), 3), lambda: DeepLoop(DeepLoopConfig())]
)
def test_a_flipped_bit_in_the_settings_of_a_loop_is_seen(make):
    whole = make().to_bytes()
    for i in range(200):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << (i % 8)
        with pytest.raises(CorruptStateError):
            type(make()).from_bytes(bytes(damaged))
