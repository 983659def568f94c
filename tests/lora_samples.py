"""Adapters and signals that the tests of the adapters share."""

from __future__ import annotations

import numpy as np

from sona.lora import MicroLoRA
from sona.trajectory import LearningSignal


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def trained(d, rank=2, seed=0, **kwargs):
    lora = MicroLoRA(d, rank, **kwargs)
    lora.set_factors(draw(seed, rank, d), 0.3 * draw(seed + 1, d, rank))
    return lora


def signal(seed, d, weight=1.0):
    return LearningSignal(draw(seed, d), draw(seed + 1, d), 0.5, weight=weight)
