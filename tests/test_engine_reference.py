"""The engine against the float64 reference, in lockstep: credibility of clicks, gate and cases, wired as they should be."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import sona

sys.path.insert(0, str(Path(__file__).parent / "reference"))
from rec_reference import EvidenceGate, Rec, StrayClicks, top_candidates


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("half_life", [None, 4.0])
@pytest.mark.parametrize("own_scores", [False, True])
def test_engine_is_the_reference(own_scores, half_life):
    """A closed set with stray clicks: every score that the engine shows is the reference's, through 150 feedbacks."""
    rng = np.random.default_rng(7)
    n, dim, shown = 60, 32, 5
    vectors = unit(rng.standard_normal((n, dim))).astype(np.float32)
    wants = unit(vectors + 0.9 * unit(rng.standard_normal((n, dim))))
    rec, strays = Rec(dim, eta=0.8, half_life_days=half_life), StrayClicks()
    gate = EvidenceGate(nu=0.3, z=2.0, soft=True, start=(0.1, 0.5), full_coverage=0.5)
    # The rule alone, nothing held back.
    engine = sona.SonaEngine(sona.SonaConfig(hidden_dim=dim, harm_budget=1e6, case_half_life_days=half_life))
    ids, weights, partly = list(range(n)), [], False
    for t in range(150):
        now = 1e9 + 20_000.0 * (t - 40 * (t % 11 == 10))  # some feedback is dated back
        want = int(rng.integers(0, 20))
        q = unit(wants[want] + 0.1 * rng.standard_normal(dim)).astype(np.float32)
        base = (3.0 * (vectors @ q) + 1.0).astype(np.float32) if own_scores else None
        decision = engine.rank(q, ids, vectors, scores=base, k=n, now=now)
        expected = gate.scores(rec, q, ids, vectors, base)
        got = np.empty(n)
        got[decision.ids] = decision.scores
        np.testing.assert_allclose(got, expected, atol=2e-5, err_msg=f"feedback {t}")
        decision = engine.rank(q, ids, vectors, scores=base, k=shown, now=now)
        places = list(decision.ids)
        clicked = [places[int(rng.integers(shown))]] if t % 5 == 4 else [want]
        if t % 7 == 6:
            clicked = [next(d for d in ids if d not in places)]  # named, not clicked
        s = rec.scores(q, ids, vectors, base)
        cosine_scale = s if base is None else s - base + vectors @ q
        named = not set(clicked) <= set(places)
        weight = 1.0 if named else strays.observe(cosine_scale[places], [places.index(c) for c in clicked])
        candidates = top_candidates(places, s)
        candidates += [c for c in clicked if c not in candidates]
        gate.observe(rec, q, clicked, ids, vectors, base, weight=weight, shown_ids=places)
        rec.learn(q, clicked, candidates, vectors[candidates], scores=s[candidates], weight=weight, at=now)
        engine.feedback(decision, chosen=clicked, now=now)
        weights.append(weight)
        partly = partly or 0.0 < gate.fullness() < 1.0
    assert partly
    found = engine.report().scopes["default"]["gate"]
    np.testing.assert_allclose(found["stray_share"], strays.strays / strays.total, atol=1e-5)
    assert min(weights) < 0.8 < max(weights) == 1.0  # strays were doubted, items that were named were not
