"""K-means against scikit-learn and the law of D² seeding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare
from sklearn.cluster import KMeans, kmeans_plusplus

from sona.exceptions import DimensionMismatch, NotFiniteError, ShapeError
from sona.patterns import kmeans, kmeans_plus_plus

EXACT = ["auto", "lloyd", "hamerly"]


def blobs(n, d, k, noise, seed):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(k, d))[rng.integers(k, size=n)] + noise * rng.normal(size=(n, d))).astype(np.float32)


def law_of_sequences(x, weights, k):
    """Probability of every ordered pick of k indices, in float64."""
    law = {}

    def extend(chosen, p):
        if len(chosen) == k:
            law[chosen] = p
            return
        d2 = ((x[:, None] - x[list(chosen)][None]) ** 2).sum(-1).min(1) if chosen else np.ones(len(x))
        mass = weights * d2
        for i in np.flatnonzero(mass):
            extend((*chosen, int(i)), p * mass[i] / mass.sum())

    extend((), 1.0)
    return law


def test_seeding_follows_the_weighted_law_over_five_picks():
    # Five picks pass two refreshes of the distances: draws from stale bounds must not bend the law.
    x = np.array([[0.0], [1.0], [2.5], [2.5], [7.0], [7.5]])
    weights = np.array([1.0, 3.0, 0.5, 0.0, 1.0, 2.0])
    law = law_of_sequences(x, weights, 4)
    trials = 20_000
    picks = [tuple(kmeans_plus_plus(x, 4, weights=weights, seed=s).tolist()) for s in range(trials)]
    assert set(picks) <= set(law)
    counts = np.array([picks.count(s) for s in law])
    expected = np.array(list(law.values())) * trials
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    keep = expected > 0
    assert chisquare(counts[keep], expected[keep]).pvalue > 1e-4


def test_seeding_has_the_law_of_scikit_learn_one_trial():
    x = blobs(40, 3, 5, 0.3, 1)
    k, trials = 12, 3000
    ours = np.zeros(len(x))
    theirs = np.zeros(len(x))
    for s in range(trials):
        ours[kmeans_plus_plus(x, k, seed=s)[-1]] += 1
        theirs[kmeans_plusplus(x, k, random_state=s, n_local_trials=1)[1][-1]] += 1
    keep = ours + theirs >= 10
    assert chi2_contingency(np.array([ours[keep], theirs[keep]])).pvalue > 1e-4


@pytest.mark.parametrize("algorithm", EXACT)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "d", "k", "noise"), [(300, 4, 3, 0.1), (1000, 20, 12, 0.6), (777, 65, 30, 1.5)])
def test_same_init_gives_the_result_of_scikit_learn(algorithm, weighted, n, d, k, noise):
    x = blobs(n, d, k, noise, seed=n + d)
    weights = np.random.default_rng(0).random(n).astype(np.float32) + 0.1 if weighted else None
    init = x[kmeans_plus_plus(x, k, seed=3)]
    theirs = KMeans(k, init=init.astype(np.float64), n_init=1, max_iter=500, tol=0.0, algorithm="lloyd")
    theirs.fit(x.astype(np.float64), sample_weight=weights)
    ours = kmeans(x, k, init=init, weights=weights, max_iterations=500, tol=0.0, algorithm=algorithm)
    assert ours.converged
    np.testing.assert_array_equal(ours.labels, theirs.labels_)
    np.testing.assert_allclose(ours.centroids, theirs.cluster_centers_, atol=2e-6)
    np.testing.assert_allclose(ours.inertia, theirs.inertia_, rtol=1e-5)


def test_inertia_is_within_half_a_percent_of_scikit_learn_over_seeds():
    x = np.concatenate([blobs(1500, 32, 20, 0.8, 5), blobs(1500, 32, 20, 1.2, 6)])
    k, seeds = 25, range(12)
    ours = [kmeans(x, k, seed=s, max_iterations=300, tol=1e-4).inertia for s in seeds]
    theirs = [KMeans(k, n_init=1, max_iter=300, tol=1e-6, random_state=s).fit(x).inertia_ for s in seeds]
    difference = (np.mean(ours) - np.mean(theirs)) / np.mean(theirs)
    assert difference < 0.005, difference


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_algorithms_and_thread_counts_agree_bit_for_bit(metric):
    x = blobs(2000, 48, 30, 1.0, 8)
    want = kmeans(x, 30, metric=metric, algorithm="lloyd", tol=0.0)
    assert want.iterations > 3
    for algorithm in EXACT:
        for threads in (1, 2, 5):
            got = kmeans(x, 30, metric=metric, algorithm=algorithm, tol=0.0, n_threads=threads)
            np.testing.assert_array_equal(got.labels, want.labels)
            np.testing.assert_array_equal(got.centroids, want.centroids)
            assert (got.inertia, got.iterations, got.converged) == (
                want.inertia,
                want.iterations,
                want.converged,
            )


def test_spherical_clusters_by_direction():
    rng = np.random.default_rng(2)
    directions = np.linalg.qr(rng.normal(size=(6, 6)))[0][:3]
    truth = rng.integers(3, size=300)
    x = (directions[truth] + 0.05 * rng.normal(size=(300, 6))) * rng.uniform(0.01, 100.0, size=(300, 1))
    got = kmeans(x, 3, metric="cosine", seed=1)
    np.testing.assert_allclose(np.linalg.norm(got.centroids, axis=1), 1.0, atol=1e-6)
    for c in range(3):
        assert len(set(got.labels[truth == c])) == 1
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    want = (2 - 2 * (unit * got.centroids[got.labels]).sum(1)).sum()
    assert got.inertia == pytest.approx(want, rel=1e-4)
    # Each centroid is the direction of its members' sum: the fixed point of spherical k-means.
    for c in range(3):
        s = unit[got.labels == c].sum(0)
        np.testing.assert_allclose(got.centroids[c], s / np.linalg.norm(s), atol=1e-5)


def test_mini_batches_come_near_the_exact_result():
    x = blobs(20_000, 16, 40, 1.0, 4)
    full = kmeans(x, 40)
    mini = kmeans(x, 40, algorithm="minibatch")
    assert mini.inertia < 1.08 * full.inertia
    assert len(mini.labels) == len(x)


rows = st.integers(2, 40).flatmap(lambda n: st.lists(st.tuples(*[st.integers(-8, 8)] * 2), min_size=n, max_size=n))


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(1, 8), st.integers(0, 10))
def test_result_is_consistent(points, k, seed):
    x = np.array(points, dtype=np.float32)
    k = min(k, len(x))
    got = kmeans(x, k, seed=seed, tol=0.0, max_iterations=500)
    distinct = len(np.unique(x, axis=0))
    assert len(got.centroids) == min(k, distinct)
    d2 = ((x[:, None].astype(np.float64) - got.centroids[None]) ** 2).sum(-1)
    np.testing.assert_allclose(d2[np.arange(len(x)), got.labels], d2.min(1), atol=1e-4)
    assert got.inertia == pytest.approx(d2.min(1).sum(), rel=1e-4, abs=1e-4)
    if got.converged:
        for c in np.unique(got.labels):
            np.testing.assert_allclose(got.centroids[c], x[got.labels == c].mean(0), atol=1e-4)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000))
def test_order_of_rows_does_not_matter_given_the_init(seed):
    x = blobs(200, 5, 4, 0.3, seed)
    init = x[:4]
    order = np.random.default_rng(seed).permutation(len(x))
    a = kmeans(x, 4, init=init, tol=0.0, max_iterations=300)
    b = kmeans(x[order], 4, init=init, tol=0.0, max_iterations=300)
    np.testing.assert_array_equal(a.labels[order], b.labels)
    np.testing.assert_allclose(a.centroids, b.centroids, atol=1e-6)


def test_integer_weights_count_as_repeated_rows():
    x = blobs(120, 6, 5, 0.5, 11)
    weights = np.random.default_rng(1).integers(1, 4, size=len(x))
    init = x[:5]
    a = kmeans(x, 5, init=init, weights=weights, tol=0.0, max_iterations=300)
    b = kmeans(np.repeat(x, weights, axis=0), 5, init=init, tol=0.0, max_iterations=300)
    np.testing.assert_array_equal(np.repeat(a.labels, weights), b.labels)
    np.testing.assert_allclose(a.centroids, b.centroids, atol=1e-5)
    assert a.inertia == pytest.approx(b.inertia, rel=1e-5)


def test_as_many_clusters_as_rows_leave_no_error():
    x = blobs(33, 4, 33, 0.5, 12)
    got = kmeans(x, 33)
    assert sorted(got.labels) == list(range(33))
    assert got.inertia == 0.0


def test_duplicates_give_fewer_clusters():
    x = np.repeat(np.eye(3, 7, dtype=np.float32), 20, axis=0)
    assert len(kmeans_plus_plus(x, 10)) == 3
    got = kmeans(x, 10)
    assert got.centroids.shape == (3, 7)
    assert got.inertia == 0.0


def test_rows_without_weight_are_labelled_but_do_not_pull():
    x = np.array([[0.0], [0.2], [5.0], [5.2], [100.0]])
    got = kmeans(x, 2, weights=[1, 1, 1, 1, 0], seed=3)
    assert sorted(got.centroids.ravel().round(4)) == pytest.approx([0.1, 5.1])
    assert got.labels[4] == got.labels[3]


def test_arrays_have_the_documented_types():
    got = kmeans([[0, 1], [2, 3], [4, 5]], 2)
    assert got.centroids.dtype == np.float32
    assert got.centroids.flags.c_contiguous
    assert got.labels.dtype == np.int64
    picked = kmeans_plus_plus([[0, 1], [2, 3], [4, 5]], 2)
    assert picked.dtype == np.int64


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"k": 0}, ValueError),
        ({"k": -1}, ValueError),
        ({"k": 4}, ValueError),
        ({"X": np.empty((0, 2)), "k": 1}, ValueError),
        ({"X": np.ones(3)}, ShapeError),
        ({"X": np.ones((3, 2, 2))}, ShapeError),
        ({"X": [[0.0, 1.0], [np.nan, 0.0], [1.0, 1.0]]}, NotFiniteError),
        ({"init": "random"}, ValueError),
        ({"init": np.ones((3, 2))}, ShapeError),
        ({"init": np.ones((2, 3))}, DimensionMismatch),
        ({"init": [[0.0, np.inf], [0.0, 1.0]]}, NotFiniteError),
        ({"weights": [1.0, 1.0]}, DimensionMismatch),
        ({"weights": [1.0, -1.0, 1.0]}, ValueError),
        ({"weights": [0.0, 0.0, 0.0]}, ValueError),
        ({"weights": [1.0, np.nan, 1.0]}, NotFiniteError),
        ({"tol": -1.0}, ValueError),
        ({"tol": np.nan}, ValueError),
        ({"max_iterations": 0}, ValueError),
        ({"max_iterations": -5}, ValueError),
        ({"n_threads": 0}, ValueError),
        ({"metric": "manhattan"}, ValueError),
        ({"algorithm": "elkan"}, ValueError),
        ({"X": [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], "metric": "cosine"}, ValueError),
    ],
)
def test_bad_input_is_refused(kwargs, error):
    call = {"X": np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 6.0]]), "k": 2} | kwargs
    with pytest.raises(error):
        kmeans(**call)


def test_same_seed_same_bits_in_parallel_calls():
    x = blobs(800, 16, 10, 0.8, 13)
    want = kmeans(x, 10, seed=7)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: kmeans(x, 10, seed=7), range(16)):
            np.testing.assert_array_equal(got.labels, want.labels)
            np.testing.assert_array_equal(got.centroids, want.centroids)
    assert not np.array_equal(kmeans_plus_plus(x, 10, seed=8), kmeans_plus_plus(x, 10, seed=7))
