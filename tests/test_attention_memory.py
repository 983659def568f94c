"""Associative memories: Hopfield networks and hypervectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sona.attention as at

DIM = 10_000


@given(st.integers(0, 2**32 - 1), st.floats(0.05, 20.0))
@settings(max_examples=40, deadline=None)
def test_retrieval_never_increases_the_energy(seed, beta):
    rng = np.random.default_rng(seed)
    patterns, state = rng.normal(size=(12, 6)), 2 * rng.normal(size=(5, 6))
    energy = at.hopfield_energy(state, patterns, beta=beta)
    assert (energy >= -1e-9).all()
    for _ in range(5):
        state = at.hopfield_retrieve(state, patterns, beta=beta)
        after = at.hopfield_energy(state, patterns, beta=beta)
        assert (after <= energy + 1e-9).all()
        energy = after


def test_capacity_is_far_beyond_that_of_the_classic_network():
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], size=(2000, 64))  # the classic network holds 0.14·64 = 9
    noisy = patterns.copy()
    for row in noisy:
        row[rng.choice(64, 6, replace=False)] *= -1
    found = at.hopfield_retrieve(noisy, patterns, beta=2.0, steps=3)
    assert (np.sign(found) == patterns).all(axis=1).mean() > 0.99


def test_one_step_is_attention():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(2, 3, 4)), rng.normal(size=(7, 4)), rng.normal(size=(7, 2))
    np.testing.assert_array_equal(at.hopfield_retrieve(q, k, v), at.scaled_dot_product_attention(q, k, v))


def test_rows_stop_when_they_no_longer_move():
    rng = np.random.default_rng(0)
    patterns = rng.normal(size=(5, 4))
    state = np.vstack([at.hopfield_retrieve(patterns[:1], patterns, beta=9.0, steps=50, tol=0.0), rng.normal(size=(1, 4))])
    got = at.hopfield_retrieve(state, patterns, beta=9.0, steps=4, tol=1e-3)
    np.testing.assert_allclose(got[0], at.hopfield_retrieve(state, patterns, beta=9.0)[0], atol=1e-12)
    alone = at.hopfield_retrieve(state[1:], patterns, beta=9.0, steps=4, tol=1e-3)
    np.testing.assert_allclose(got[1], alone[0], atol=1e-12)


def test_memory_grows_and_answers_like_the_function():
    rng = np.random.default_rng(0)
    x, y, state = rng.normal(size=(6, 4)), rng.normal(size=(6, 2)), rng.normal(size=(3, 4))
    memory = at.HopfieldMemory(4, beta=3.0)
    assert len(memory) == 0
    np.testing.assert_array_equal(memory.retrieve(state), 0)
    memory.store(x[:2], y[:2])
    memory.store(x[2:], y[2:])
    assert len(memory) == 6
    np.testing.assert_array_equal(memory.retrieve(state, steps=2), at.hopfield_retrieve(state, x, y, beta=3.0, steps=2))
    np.testing.assert_array_equal(memory.energy(state), at.hopfield_energy(state, x, beta=3.0))
    with pytest.raises(at.ShapeError):
        memory.store(x)
    with pytest.raises(at.ShapeError):
        memory.store(rng.normal(size=(2, 5)), y[:2])


def test_all_clusters_are_the_flat_memory_and_fewer_find_most():
    rng = np.random.default_rng(0)
    centers = 3 * rng.normal(size=(8, 16))
    x = (centers.repeat(40, axis=0) + rng.normal(size=(320, 16))).astype("float32")
    # Clusters are chosen by inner products: patterns of one length, as in any use of this memory.
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    memory = at.HierarchicalHopfield(x, num_clusters=8, beta=200.0)
    np.testing.assert_array_equal(
        memory.retrieve(x, top_clusters=8, steps=2), at.hopfield_retrieve(x, x, beta=200.0, steps=2, tol=0.0)
    )
    found = memory.retrieve(x, top_clusters=2)
    assert (np.linalg.norm(found - x, axis=1) < 0.1).mean() > 0.95
    stacked = memory.retrieve(x.reshape(4, 80, 16), top_clusters=2)
    np.testing.assert_array_equal(stacked.reshape(320, 16), found)


def words(rng, n, dim=DIM):
    return at.hdc_pack(rng.random((n, dim)) < 0.5)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200))
@settings(max_examples=60, deadline=None)
def test_packing(seed, dim):
    bits = np.random.default_rng(seed).random((3, dim)) < 0.5
    packed = at.hdc_pack(bits)
    assert packed.shape == (3, -(-dim // 64))
    for i in range(dim):
        np.testing.assert_array_equal(packed[:, i // 64] >> np.uint64(i % 64) & np.uint64(1), bits[:, i])
    np.testing.assert_array_equal(at.hdc_unpack(packed, dim=dim), bits)
    want = 1 - 2 * (bits[:, None] != bits[None]).mean(-1)
    np.testing.assert_allclose(at.hdc_similarity(packed, packed, dim=dim), want, atol=1e-12)


@given(st.integers(0, 2**32 - 1), st.integers(1, 200), st.integers(-300, 300))
@settings(max_examples=60, deadline=None)
def test_permuting_rolls_the_bits(seed, dim, shift):
    bits = np.random.default_rng(seed).random((2, dim)) < 0.5
    moved = at.hdc_permute(at.hdc_pack(bits), shift, dim=dim)
    np.testing.assert_array_equal(at.hdc_unpack(moved, dim=dim), np.roll(bits, shift, axis=-1))
    np.testing.assert_array_equal(at.hdc_permute(moved, -shift, dim=dim), at.hdc_pack(bits))


def test_random_hypervectors_are_unlike_each_other():
    x = words(np.random.default_rng(0), 200)
    off = at.hdc_similarity(x, x, dim=DIM)[~np.eye(200, dtype=bool)]
    assert np.abs(off).max() < 5 / DIM**0.5
    assert abs(off.std() - DIM**-0.5) < 0.05 * DIM**-0.5


def test_binding_is_undone_exactly_and_keeps_distances():
    a, b, c = (words(np.random.default_rng(s), 4) for s in range(3))
    bound = at.hdc_bind(a, b)
    np.testing.assert_array_equal(at.hdc_bind(bound, b), a)
    assert np.abs(np.diag(at.hdc_similarity(bound, a, dim=DIM))).max() < 5 / DIM**0.5
    np.testing.assert_array_equal(
        at.hdc_similarity(at.hdc_bind(a, c), at.hdc_bind(b, c), dim=DIM).diagonal(),
        at.hdc_similarity(a, b, dim=DIM).diagonal(),
    )


@pytest.mark.parametrize("n", [1, 3, 21, 301])
def test_a_bundle_is_like_each_of_its_members(n):
    x = words(np.random.default_rng(n), n)
    counts = at.hdc_unpack(x, dim=DIM).sum(axis=0)
    bundle = at.hdc_bundle(x, dim=DIM)
    np.testing.assert_array_equal(at.hdc_unpack(bundle, dim=DIM), counts > n / 2)
    likeness = at.hdc_similarity(bundle, x, dim=DIM)[0]
    expected = 1.0 if n == 1 else (2 / (np.pi * n)) ** 0.5
    assert abs(likeness.mean() - expected) < (1e-12 if n == 1 else 0.3 * expected)


def test_ties_take_the_bits_of_the_seed():
    x = words(np.random.default_rng(0), 300)
    bits = at.hdc_unpack(x, dim=DIM)
    tied = bits.sum(axis=0) == 150
    got = [at.hdc_unpack(at.hdc_bundle(x, dim=DIM, seed=s), dim=DIM) for s in (1, 1, 2)]
    np.testing.assert_array_equal(got[0], got[1])
    np.testing.assert_array_equal(got[0][~tied], (bits.sum(axis=0) > 150)[~tied])
    assert 0.3 < (got[0][tied] != got[2][tied]).mean() < 0.7


def test_codes_measure_angles():
    angles = np.linspace(0, np.pi, 9)
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    codes = at.hdc_encode(x, dim=DIM, seed=1)
    got = at.hdc_similarity(codes[:1], codes, dim=DIM)[0]
    np.testing.assert_allclose(got, 1 - 2 * angles / np.pi, atol=5 / DIM**0.5)
    projection = np.random.default_rng(0).normal(size=(70, 2))
    np.testing.assert_array_equal(at.hdc_unpack(at.hdc_encode(x, dim=70, projection=projection), dim=70), x @ projection.T > 0)


def test_hypervector_attention():
    rng = np.random.default_rng(0)
    q, k, v = rng.random((2, 3, 100)) < 0.5, rng.random((7, 100)) < 0.5, rng.normal(size=(7, 4))
    similarity = 1 - 2 * (q[:, :, None] != k).mean(-1)
    e = np.exp(8 * similarity)
    want = e / e.sum(-1, keepdims=True) @ v
    np.testing.assert_allclose(at.hdc_attention(q, k, v), want, rtol=1e-12)
    np.testing.assert_allclose(at.hdc_attention(at.hdc_pack(q), at.hdc_pack(k), v, dim=100), want, rtol=1e-12)
    order = np.argsort(-similarity, axis=-1, kind="stable")
    e = np.where(np.isin(np.arange(7), order[0, 0, :2]), e[0, 0], 0)
    np.testing.assert_allclose(at.hdc_attention(q, k, v, topk=2)[0, 0], e / e.sum() @ v, rtol=1e-12)
    v[order[0, 0, -1]] = np.nan
    assert np.isfinite(at.hdc_attention(q[0, :1], k, v, topk=2)).all()
    assert at.hdc_attention(q, k[:0], v[:0]).shape == (2, 3, 4)


@pytest.mark.parametrize("beta", [0.0, -1.0, -1e4, 1e4])
def test_hypervector_attention_takes_any_beta_beside_topk(beta):
    rng = np.random.default_rng(3)
    q, k, v = rng.random((3, 70)) < 0.5, rng.random((6, 70)) < 0.5, rng.normal(size=(6, 2))
    similarity = 1 - 2 * (q[:, None] != k[None]).mean(axis=-1)
    logits = np.full_like(similarity, -np.inf)
    for row, of in zip(logits, similarity, strict=True):
        nearest = np.argsort(-of, kind="stable")[:4]
        row[nearest] = beta * of[nearest]
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(at.hdc_attention(q, k, v, beta=beta, topk=4), e / e.sum(axis=-1, keepdims=True) @ v, atol=1e-12)


@pytest.mark.parametrize(("patterns", "values"), [((2, 1), (3,)), ((), (2,)), ((2,), ()), ((1,), (4,))])
def test_hopfield_values_broadcast_against_the_patterns_in_several_steps(patterns, values):
    rng = np.random.default_rng(1)
    given = rng.normal(size=(4, 3)), rng.normal(size=(*patterns, 5, 3)), rng.normal(size=(*values, 5, 2))
    lead = np.broadcast_shapes(patterns, values)
    full = [np.ascontiguousarray(np.broadcast_to(x, lead + x.shape[-2:])) for x in given]
    out, pull = at.vjp(at.hopfield_retrieve, *given, steps=3, tol=0)
    want, pull_full = at.vjp(at.hopfield_retrieve, *full, steps=3, tol=0)
    np.testing.assert_allclose(out, want, atol=1e-12)
    dout = rng.normal(size=out.shape)
    got, grads = pull(dout), pull_full(dout)
    for name, x in zip(("state", "patterns", "values"), given, strict=True):
        free = tuple(i for i, n in enumerate((1,) * (len(lead) + 2 - x.ndim) + x.shape) if n == 1 and grads[name].shape[i] > 1)
        extra = tuple(range(len(lead) + 2 - x.ndim))
        np.testing.assert_allclose(
            got[name], grads[name].sum(axis=tuple({*free, *extra}), keepdims=True).reshape(x.shape), atol=1e-12
        )
    with pytest.raises(at.ShapeError):
        at.hopfield_retrieve(given[0], given[1], rng.normal(size=(*values, 4, 2)), steps=2)
