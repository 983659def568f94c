"""Metrics against scikit-learn, hand-worked cases, and the coverage of the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from sona.evaluate import (
    Interval,
    bootstrap,
    hit_at,
    measure,
    ndcg_at,
    paired_bootstrap,
    reciprocal_rank,
    relevant_ranks,
    simulate_click,
)


def test_ranks_of_distinct_scores_equal_the_sorted_order():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=200)
    order = np.argsort(-scores)
    assert relevant_ranks(scores, order).tolist() == list(range(1, 201))


def test_ranks_of_ties_count_against_the_item():
    assert relevant_ranks(np.zeros(7), [0, 6]).tolist() == [7, 7]


def test_nan_is_ranked_worst_and_never_helps():
    nan = float("nan")
    assert relevant_ranks([nan, 1.0, 2.0], [0]).tolist() == [3]
    assert relevant_ranks([nan, 1.0, 2.0], [2]).tolist() == [2]
    diverged = measure(np.full(50, nan), [3])
    assert diverged == {"hit@1": 0.0, "hit@10": 0.0, "mrr": 1 / 50, "ndcg@10": 0.0}
    assert reciprocal_rank([nan]) == 0.0
    assert hit_at([nan], 10) == 0.0
    assert ndcg_at([nan]) == 0.0


def test_ndcg_equals_sklearn_on_random_rankings():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(2)
    for _ in range(50):
        scores = rng.normal(size=40)
        relevant = rng.choice(40, size=rng.integers(1, 15), replace=False)
        truth = np.zeros(40)
        truth[relevant] = 1
        expected = metrics.ndcg_score(truth[None], scores[None], k=10)
        assert ndcg_at(relevant_ranks(scores, relevant), 10) == pytest.approx(expected, abs=1e-12)


def test_hits_and_reciprocal_rank_by_hand():
    scores = [0.3, 0.9, 0.5, 0.1]
    assert measure(scores, [2, 3], k=3) == {
        "hit@1": 0.0,
        "hit@3": 1.0,
        "mrr": 0.5,
        "ndcg@3": pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3))),
    }
    assert measure(scores, []) == {"hit@1": 0.0, "hit@10": 0.0, "mrr": 0.0, "ndcg@10": 0.0}


def test_ranks_reject_a_matrix_and_a_position_outside():
    with pytest.raises(ValueError, match=r"scores: .* \(2, 2\)"):
        relevant_ranks(np.zeros((2, 2)), [0])
    for outside in (3, -1):
        with pytest.raises(IndexError, match=r"\[0, 3\)"):
            relevant_ranks(np.zeros(3), [outside])


def test_click_is_every_shown_item_that_helps():
    rng = np.random.default_rng(0)
    assert simulate_click([5, 2, 8], frozenset({8, 5, 1}), rng) == [5, 8]
    assert simulate_click([5, 2, 8], frozenset({1}), rng) == []
    assert simulate_click([], frozenset({1}), rng, noise=1.0) == []


def test_noise_has_its_share_and_is_uniform_over_what_is_shown():
    rng = np.random.default_rng(3)
    events = [simulate_click(range(10), frozenset({99}), rng, noise=0.2) for _ in range(20_000)]
    wrong = [e[0] for e in events if e]
    assert len(wrong) / len(events) == pytest.approx(0.2, abs=0.01)
    counts = np.bincount(wrong, minlength=10)
    assert counts.min() > 0.85 * counts.mean()
    assert counts.max() < 1.15 * counts.mean()


def test_click_draws_the_same_coins_whatever_is_shown():
    a, b = np.random.default_rng(4), np.random.default_rng(4)
    simulate_click([1, 2, 3], frozenset({1}), a, noise=0.5)
    simulate_click([], frozenset(), b)
    assert a.random() == b.random()


def test_bootstrap_interval_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(300):
        interval = bootstrap(rng.normal(0.3, 1.0, 80), draws=400, seed=trial)
        covered += interval.low <= 0.3 <= interval.high
    assert 0.90 <= covered / 300 <= 0.98


def test_bootstrap_is_repeatable_and_averages_runs_first():
    runs = np.random.default_rng(6).random((5, 40))
    assert bootstrap(runs, seed=1) == bootstrap(runs.mean(axis=0), seed=1)
    assert bootstrap(runs, seed=1) != bootstrap(runs, seed=2)
    assert str(Interval(0.25, 0.1, 0.4)) == "0.250 [0.100, 0.400]"


def test_pairing_removes_what_both_sides_share():
    rng = np.random.default_rng(7)
    before = rng.random(300)
    lift = paired_bootstrap(before + 0.01, before)
    assert lift.mean == pytest.approx(0.01)
    assert lift.high - lift.low < 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([]), r"n > 0, got \(0,\)"),
        (lambda: bootstrap([0.0, np.nan]), "not finite at question 1"),
        (lambda: bootstrap([0.0], level=1.0), "0 < level < 1"),
        (lambda: bootstrap([0.0], draws=0), "draws >= 1"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0]), "got 1 and 2"),
    ],
)
def test_bootstrap_names_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()
