"""A large case memory comes back as it was: it is made on two threads."""

from __future__ import annotations

import numpy as np

from sona.patterns import CaseMemory


def test_a_large_memory_is_the_same_after_loading():
    rng = np.random.default_rng(0)
    items = rng.normal(size=(20, 24)).astype(np.float32)
    memory = CaseMemory(24)
    for i in range(1_500):
        memory.learn(rng.normal(size=24).astype(np.float32), [i % 20], range(20), items)
    other = CaseMemory.from_bytes(memory.to_bytes())
    assert len(other) == 1_500
    assert other.to_bytes() == memory.to_bytes()
    for _ in range(20):
        q = rng.normal(size=24).astype(np.float32)
        assert other.scores(q, range(20), items).tobytes() == memory.scores(q, range(20), items).tobytes()
        assert other.recall(q, range(20)).tobytes() == memory.recall(q, range(20)).tobytes()
