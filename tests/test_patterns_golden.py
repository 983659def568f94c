"""Every case of the golden file of the room ``patterns``."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.stats import chisquare

import sona.patterns
from golden_files import golden
from sona.patterns import (
    LearnedPattern,
    PatternConfig,
    QLearningPatterns,
    ReasoningBank,
    kmeans,
    kmeans_plus_plus,
)


@golden("kmeans", "patterns.npz")
@pytest.mark.parametrize("algorithm", ["auto", "lloyd", "hamerly"])
def test_golden_kmeans(arrays, params, tol, algorithm):
    weights = arrays["weights"] if params["weighted"] else None
    got = kmeans(
        arrays["X"],
        params["k"],
        init=arrays["init"],
        weights=weights,
        max_iterations=params["max_iterations"],
        tol=params["tol"],
        algorithm=algorithm,
    )
    assert got.converged
    np.testing.assert_array_equal(got.labels, arrays["labels"])
    np.testing.assert_allclose(got.centroids, arrays["centroids"], rtol=tol, atol=tol)
    np.testing.assert_allclose(got.inertia, arrays["inertia"], rtol=tol)


@golden("d2_law", "patterns.npz")
def test_golden_seeding_law(arrays, params, tol):
    weights = arrays["weights"] if params["weighted"] else None
    picks = np.array([kmeans_plus_plus(arrays["Y"], 2, weights=weights, seed=s) for s in range(params["trials"])])
    n = len(arrays["Y"])
    first = np.bincount(picks[:, 0], minlength=n)
    assert chisquare(first, arrays["first"] * first.sum()).pvalue > params["p_min"]
    for i in range(n):
        given_first = np.bincount(picks[picks[:, 0] == i, 1], minlength=n)
        law = arrays["second"][i]
        assert given_first[law == 0].sum() == 0
        expected = law[law > 0] * given_first.sum()
        assert chisquare(given_first[law > 0], expected).pvalue > params["p_min"]


def resolve(value):
    if isinstance(value, str) and value.startswith("np:"):
        kind, *shape = value[3:].split(":")
        return np.full([int(s) for s in shape], np.nan if kind == "nan" else 1.0)
    return value


@golden("bad_input", "bad_input.npz", module="patterns")
def test_golden_bad_input(arrays, params, tol):
    [(name, args, kwargs)] = params["calls"]
    function = getattr(sona.patterns, name)
    with pytest.raises(ValueError) as error:
        function(*map(resolve, args), **kwargs)
    assert params["error"] in [c.__name__ for c in inspect.getmro(error.type)]


@golden("pattern_merge", "patterns.npz")
def test_golden_merge(arrays, params, tol):
    a, b, c = (
        LearnedPattern(
            id=i,
            centroid=arrays["centroids"][i],
            cluster_size=params["sizes"][i],
            total_weight=float(arrays["weight"][i]),
            avg_quality=float(arrays["quality"][i]),
            quality_var=float(arrays["var"][i]),
            created_at=params["created"][i],
            last_accessed=params["accessed"][i],
            access_count=params["access"][i],
        )
        for i in range(3)
    )
    for got in (a.merge(b).merge(c), a.merge(b.merge(c))):
        assert got.id == 0
        assert got.cluster_size == sum(params["sizes"])
        assert got.access_count == sum(params["access"])
        assert got.created_at == min(params["created"])
        assert got.last_accessed == max(params["accessed"])
        np.testing.assert_allclose(got.centroid, arrays["centroid"], rtol=tol, atol=tol)
        np.testing.assert_allclose(got.avg_quality, arrays["avg"], rtol=tol)
        np.testing.assert_allclose(got.quality_var, arrays["quality_var"], rtol=tol)
        np.testing.assert_allclose(got.total_weight, arrays["total_weight"], rtol=tol)


@golden("wilson", "patterns.npz")
def test_golden_wilson(arrays, params, tol):
    p = LearnedPattern(0, [1.0], params["n"], 1.0, params["k"] / params["n"])
    assert p.quality_lower_bound() == pytest.approx(params["lower"], abs=tol)


@golden("qlearning", "patterns.npz")
def test_golden_qlearning(arrays, params, tol):
    q = QLearningPatterns(gamma=params["gamma"], alpha_power=params["alpha_power"])
    for state, action, reward, following in params["transitions"]:
        q.update(state, action, reward, following)
    for state, action, value, n in params["q"]:
        assert q.q_value(state, action) == pytest.approx(value, abs=tol)
        assert q.count(state, action) == n


@golden("bank", "patterns.npz")
def test_golden_bank(arrays, params, tol):
    bank = ReasoningBank(PatternConfig(k_clusters=params["k"], embedding_dim=params["dim"]))
    for x, quality in zip(arrays["X"], arrays["quality"], strict=True):
        bank.add(x, float(quality))
    first = bank.extract_patterns()
    assert len(first) == params["k"]
    for center in arrays["centers"]:
        assert bank.find_patterns(center, k=1)[0].similarity > 0.95
    again = bank.extract_patterns()
    assert [p.id for p in again] == [p.id for p in first]
    for x, quality in zip(arrays["X"][:30], arrays["quality"][:30], strict=True):
        bank.add(x + 0.001, float(quality))
    assert sorted(p.id for p in bank.extract_patterns()) == sorted(p.id for p in first)
    assert len(bank.patterns) == params["k"]
