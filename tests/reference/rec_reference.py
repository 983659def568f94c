"""Plain reference of the rule that learns a ranking from clicks (REC), its gate and its evidence term.

This file is the oracle for the compiled implementation: numpy only, one request at a time, any float
type, no speed tricks. It holds the rule and no protocol (no streams, clicks, noise or metrics).

Notation. All vectors have unit length. A case k is (q_k, C_k, g_k): the request, the set of chosen
items, and a listwise gradient. For a request q with the N nearest cases (``neighbors``; None = all):

    a_k = exp((q.q_k - 1) / h_a)      u = q + eta * sum_k a_k g_k           u^ = u / |u|     (1) adapt
    b_k = exp((q.q_k - 1) / h_r)      r(d) = sum_{k: d in C_k} m_k b_k / (sum_k |m_k| b_k + kappa)
                                                                                             (2) recall
    s(d) = base(d) + (u^ - q).d + w * r(d)          base(d) = q.d unless given               (3) rank
    p = softmax(s / tau) over the candidates
    g = |weight| * sum_j (y_j - p_j) d_j,  m_k = weight                                      (4) learn

y is uniform over the clicks if weight > 0. A negative weight rejects the items: then y is p without them,
normalised (0 where nothing is left), which is the gradient of ln(1 - sum p_rejected). The denominator of r
runs over the choices (m > 0) for an item of net credit, over the rejections (m < 0) for one of net discredit.

With ``half_life_days`` h, a_k and b_k are further multiplied by 2^(-(now - t_k) / h), t_k the time of the
case and now the latest t_k of all.

The order of one feedback, everything from the state *before* the case is appended:
  1. s over the ranked items from (3), without any offset or gate;
  2. the weight of the feedback: 1, or rho of `StrayClicks`, from s over the shown items;
     the gate looks (scores its arms) with that state: ``EvidenceGate.observe`` / ``MultiplierGate.observe``;
     the evidence gate then adds r(a | q) to E(a) of every clicked item a;
  3. candidates = shown items and the 50 best by s (what was *shown* may come from the gated score);
  4. ``Rec.learn`` appends the case.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
BETAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
LAMBDAS = (0.0, 0.5, 1.0)
#: The evidence arms (beta, lambda), beta outermost; arm 0 is (0, 0), which is plain REC.
EVIDENCE_ARMS = tuple((b, lam) for b in BETAS for lam in LAMBDAS)
MULTIPLIERS = (0.0, 0.25, 0.5, 1.0, 1.5)
THRESHOLDS = (None, 0.4, 0.5, 0.6, 0.7, 0.8)
#: The multiplier arms (m, theta), m outermost; theta None means the factor m alone.
MULTIPLIER_ARMS = tuple((m, t) for m in MULTIPLIERS for t in THRESHOLDS)
NO_CASES: NDArray[np.int64] = np.zeros(0, np.int64)


def splitmix64(x: int) -> int:
    """Mix a 64-bit integer; the portable coin for "one random clicked item"."""
    mask = (1 << 64) - 1
    z = (x + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def dcg(scores: Array, relevant: Sequence[int]) -> Array:
    """Sum of 1 / log2(1 + rank) over the relevant positions of the last axis, not cut off.

    The rank is 1 + the number of other items that do not score strictly lower: ties and NaN are worst.
    """
    total = np.zeros(scores.shape[:-1], scores.dtype)
    for j in relevant:
        rank = (~(scores < scores[..., j : j + 1])).sum(-1)  # counts j itself, so it starts at 1
        total = total + 1.0 / np.log2(1.0 + rank)
    return total


def top_candidates(shown: Sequence[int], s: Array, top: int = 50) -> list[int]:
    """Positions of the shown items, then those of the ``top`` best by s that were not shown."""
    best = np.argsort(-s, kind="stable")[:top]
    seen = set(shown)
    return list(shown) + [int(j) for j in best if int(j) not in seen]


@dataclass
class Rec:
    """Kernel adapter and normalised recall over remembered cases, equations (1) to (4)."""

    dim: int
    eta: float = 0.6
    h_a: float = 0.2
    tau: float = 0.1
    w: float = 0.2
    h_r: float = 0.05
    kappa: float = 0.001
    neighbors: int | None = 128
    half_life_days: float | None = None
    dtype: type = np.float64
    q: list[Array] = field(default_factory=list)
    g: list[Array] = field(default_factory=list)
    mass: list[float] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    clicked: list[frozenset[Hashable]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.q)

    def left(self, k: int) -> float:
        """What age has left of case k."""
        if self.half_life_days is None:
            return 1.0
        return 2.0 ** (-(max(self.at) - self.at[k]) / 86400.0 / self.half_life_days)

    def nearest(self, q: Array) -> tuple[NDArray[np.int64], Array]:
        """The nearest cases by cosine, best first, ties to the older case: (case ids, cosines)."""
        if not self.q:
            return NO_CASES, np.zeros(0, self.dtype)
        cos = np.stack(self.q) @ np.asarray(q, self.dtype)
        order = np.argsort(-cos, kind="stable")[: self.neighbors]
        return order, cos[order]

    def near(self, q: Array, removed: frozenset[Hashable] = frozenset()) -> tuple[NDArray[np.int64], Array]:
        """`nearest` without the cases that any removed item was clicked in.

        They are taken out of the neighbours that were found; no others move up into their place.
        """
        ids, cos = self.nearest(q)
        keep = np.array([not (self.clicked[k] & removed) for k in ids], bool)
        return ids[keep], cos[keep]

    def adapt(self, q: Array, removed: frozenset[Hashable] = frozenset()) -> Array:
        """u^ of (1); q itself, bit for bit, without cases."""
        q = np.asarray(q, self.dtype)
        ids, cos = self.near(q, removed)
        if len(ids) == 0:
            return q
        a = np.exp((cos - 1.0) / self.h_a) * np.array([self.left(k) for k in ids], self.dtype)
        u = q + self.eta * (a @ np.stack([self.g[k] for k in ids]))
        norm = np.linalg.norm(u)
        return u / norm if norm > 0 and np.isfinite(norm) else q

    def recall(self, q: Array, item_ids: Sequence[Hashable], removed: frozenset[Hashable] = frozenset()) -> Array:
        """r(d) of (2) for the given items."""
        ids, cos = self.near(q, removed)
        net = dict.fromkeys(item_ids, 0.0)
        chosen = rejected = 0.0
        for k, c in zip(ids, cos, strict=True):
            b = self.mass[k] * self.left(k) * np.exp((c - 1.0) / self.h_r)
            chosen += max(b, 0.0)
            rejected += max(-b, 0.0)
            for d in self.clicked[k]:
                if d in net:
                    net[d] += b
        mass = [chosen if net[d] >= 0 else rejected for d in item_ids]
        return np.array([net[d] for d in item_ids], self.dtype) / (np.array(mass, self.dtype) + self.kappa)

    def scores(
        self,
        q: Array,
        item_ids: Sequence[Hashable],
        vectors: Array,
        base: Array | None = None,
        removed: frozenset[Hashable] = frozenset(),
    ) -> Array:
        """s(d) of (3), without offset or gate; the base itself, bit for bit, without cases."""
        q = np.asarray(q, self.dtype)
        vectors = np.asarray(vectors, self.dtype)
        s0 = vectors @ q if base is None else np.asarray(base, self.dtype)
        if len(self.near(q, removed)[0]) == 0:
            return s0
        return s0 + vectors @ (self.adapt(q, removed) - q) + self.w * self.recall(q, item_ids, removed)

    def learn(
        self,
        q: Array,
        clicked_ids: Sequence[Hashable],
        candidate_ids: Sequence[Hashable],
        candidate_vectors: Array,
        scores: Array | None = None,
        weight: float = 1.0,
        at: float = 0.0,
    ) -> int:
        """Append the case of (4); ``scores`` default to the own s. A negative weight rejects the items."""
        q = np.asarray(q, self.dtype)
        vectors = np.asarray(candidate_vectors, self.dtype)
        chosen = frozenset(clicked_ids)
        y = np.array([d in chosen for d in candidate_ids], self.dtype)
        if not chosen or y.sum() != len(chosen):
            raise ValueError("every clicked item must be among the candidates, once")
        s = self.scores(q, candidate_ids, vectors) if scores is None else np.asarray(scores, self.dtype)
        z = np.exp((s - s.max()) / self.tau)
        target = y / y.sum() if weight > 0 else self.without(s, y > 0)
        self.g.append(abs(weight) * ((target - z / z.sum()) @ vectors))
        self.q.append(q.copy())
        self.mass.append(weight)
        self.at.append(at)
        self.clicked.append(chosen)
        return len(self.q) - 1

    def without(self, s: Array, rejected: NDArray[np.bool_]) -> Array:
        """softmax(s / tau) over what was not rejected, 0 elsewhere."""
        y = np.zeros(len(s), self.dtype)
        if not rejected.all():
            y[~rejected] = np.exp((s[~rejected] - s[~rejected].max()) / self.tau)
            y /= y.sum()
        return y


@dataclass
class StrayClicks:
    """How believable a click is: the posterior that it is no stray, with the share of strays learned.

    p = softmax(s / tau) over the *shown* items, summed over the clicked ones, s the un-offset REC score
    rho = (1 - eps) p / ((1 - eps) p + eps |C| / |shown|),   eps = strays / total before this feedback   (7)
    strays <- decay strays + 1 - rho,   total <- decay total + 1           (start: 1 of 20)

    rho is the case's ``weight`` in `Rec.learn` (its gradient and its mass in the recall) and the weight
    of the feedback in `EvidenceGate.observe`.
    """

    tau: float = 0.1
    decay: float = 0.999
    strays: float = 1.0
    total: float = 20.0

    def observe(self, shown_scores: Array, clicked: Sequence[int]) -> float:
        """rho of one feedback; ``clicked`` are positions among the shown items."""
        z = np.exp((shown_scores - np.max(shown_scores)) / self.tau)
        p = float(z[list(clicked)].sum() / z.sum())
        eps = self.strays / self.total
        rho = (1.0 - eps) * p / ((1.0 - eps) * p + eps * len(clicked) / len(shown_scores))
        self.strays = self.decay * self.strays + 1.0 - rho
        self.total = self.decay * self.total + 1.0
        return rho


@dataclass
class RunningGain:
    """Decayed count, mean and mean square of one number per arm."""

    arms: int
    decay: float
    n: float = 0.0
    sum1: Array = field(init=False)
    sum2: Array = field(init=False)

    def __post_init__(self) -> None:
        self.sum1 = np.zeros(self.arms)
        self.sum2 = np.zeros(self.arms)

    def add(self, x: Array, weight: float = 1.0) -> None:
        """n <- decay n + weight, and the sums of weight x and weight x^2 likewise."""
        self.n = self.decay * self.n + weight
        self.sum1 = self.decay * self.sum1 + weight * x
        self.sum2 = self.decay * self.sum2 + weight * x * x

    def mean(self) -> Array:
        """Decayed mean per arm, 0 before the first number."""
        return self.sum1 / max(self.n, 1e-300)

    def variance_of_mean(self) -> Array:
        """(E[x^2] - E[x]^2) / n per arm, floored at 0."""
        n = max(self.n, 1e-300)
        return np.maximum(self.sum2 / n - self.mean() ** 2, 0.0) / n


@dataclass
class EvidenceGate:
    """Items that never had a chance get a learned handicap (beta, lambda).

    E(a) += max(r(a | q), 0) for each clicked a, before the case is appended;  e(d) = 1 while E(d) < 1, else 0
    s'(d) = s(d) + e(d) * (beta + lambda * (q - qbar).d)                                          (5)
    qbar = sum_k c_k q_k / sum_k c_k,  c_k = exp((q.q_k - 1) / h_q),  qbar = q without cases
    D = (1 - nu) mean(x) + nu mean(x'),   x = dcg(arm) - dcg(arm 0) as it is, x' with one item removed
    SE^2 = (1 - nu)^2 var(x) / n + nu^2 var(x') / n'                                              (6)
    arm in use: the largest D among those with D > z SE (first on ties); else arm 0 = plain REC.

    In the removed copy a random clicked item a loses its cases, e(a) = 1, and the other clicked items
    leave the ranking. Arms are scored from feedback ``score_from`` on (the first feedback is number 1)
    and one is chosen from feedback ``warmup`` on.

    The later rule ("credible clicks, soft evidence, safe start") differs in four settings: ``soft``: e(d) =
    max(0, 1 - E(d)); ``start`` = (.1, .5), the arm in use until another beats it, x being the gain over it;
    z = 2; and ``observe(weight=rho)`` with rho of `StrayClicks`, which weighs x, x' and the evidence.

    ``full_coverage`` > 0 scales e(d), also that of the removed item, by min(1, coverage / full_coverage), with
    coverage the running mean (the same decay) of the share of *shown* items that were ever clicked, counted
    at the start of ``observe``, before the feedback's own clicks (8). In an open item set, where most of what is shown
    was never clicked, items without evidence protect each other and the handicap nearly goes. The engine
    uses eta .8, soft, start (.1, .5), z 2, nu .3, full_coverage .5, and rho.
    """

    nu: float = 0.2
    z: float = 3.0
    decay: float = 0.999
    h_q: float = 0.1
    score_from: int = 6
    warmup: int = 20
    seed: int = 0
    soft: bool = False
    start: tuple[float, float] = (0.0, 0.0)
    full_coverage: float = 0.0
    count: int = 0
    known: float = 0.0
    looks: float = 0.0
    evidence: dict[Hashable, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.as_is = RunningGain(len(EVIDENCE_ARMS), self.decay)
        self.removed = RunningGain(len(EVIDENCE_ARMS), self.decay)

    def unproven(self, item_ids: Sequence[Hashable]) -> Array:
        """e(d) per item."""
        if self.soft:
            e = np.array([max(0.0, 1.0 - self.evidence.get(d, 0.0)) for d in item_ids])
        else:
            e = np.array([1.0 if self.evidence.get(d, 0.0) < 1.0 else 0.0 for d in item_ids])
        return self.fullness() * e

    def fullness(self) -> float:
        """The factor of (8)."""
        if self.full_coverage == 0.0:
            return 1.0
        return min(1.0, self.known / max(self.looks, 1e-300) / self.full_coverage)

    def novelty(self, rec: Rec, q: Array, vectors: Array, removed: frozenset[Hashable] = frozenset()) -> Array:
        """(q - qbar).d per item, 0 without cases."""
        q = np.asarray(q, rec.dtype)
        vectors = np.asarray(vectors, rec.dtype)
        ids, cos = rec.near(q, removed)
        if len(ids) == 0:
            return np.zeros(len(vectors), rec.dtype)
        c = np.exp((cos - cos.max()) / self.h_q)
        return vectors @ (q - (c @ np.stack([rec.q[k] for k in ids])) / c.sum())

    def arm_scores(
        self,
        rec: Rec,
        q: Array,
        item_ids: Sequence[Hashable],
        vectors: Array,
        base: Array | None = None,
        removed: frozenset[Hashable] = frozenset(),
    ) -> Array:
        """s'(d) of (5) for every arm, shape (arms, items)."""
        s = rec.scores(q, item_ids, vectors, base, removed)
        e = self.unproven(item_ids)
        e[[d in removed for d in item_ids]] = self.fullness()
        novelty = self.novelty(rec, q, vectors, removed)
        return np.stack([s + e * (beta + lam * novelty) for beta, lam in EVIDENCE_ARMS])

    def observe(
        self,
        rec: Rec,
        q: Array,
        clicked_ids: Sequence[Hashable],
        item_ids: Sequence[Hashable],
        vectors: Array,
        base: Array | None = None,
        weight: float = 1.0,
        shown_ids: Sequence[Hashable] | None = None,
    ) -> None:
        """One feedback, before ``rec.learn``: score the arms, then count the evidence. Shown: default all."""
        self.count += 1
        shown = item_ids if shown_ids is None else shown_ids
        self.known = self.decay * self.known + float(np.mean([d in self.evidence for d in shown]))
        self.looks = self.decay * self.looks + 1.0
        start = EVIDENCE_ARMS.index(self.start)
        position = {d: j for j, d in enumerate(item_ids)}
        if self.count >= self.score_from:
            plain = dcg(self.arm_scores(rec, q, item_ids, vectors, base), [position[a] for a in clicked_ids])
            self.as_is.add(plain - plain[start], weight)
            a = clicked_ids[splitmix64(self.seed + self.count) % len(clicked_ids)]
            keep = [j for j, d in enumerate(item_ids) if d == a or d not in set(clicked_ids)]
            scores = self.arm_scores(rec, q, item_ids, vectors, base, frozenset([a]))[:, keep]
            without = dcg(scores, [keep.index(position[a])])
            self.removed.add(without - without[start], weight)
        r = rec.recall(q, clicked_ids)
        for a, value in zip(clicked_ids, r, strict=True):
            self.evidence[a] = self.evidence.get(a, 0.0) + weight * max(float(value), 0.0)

    def gains(self) -> Array:
        """D of (6) per arm."""
        return (1.0 - self.nu) * self.as_is.mean() + self.nu * self.removed.mean()

    def standard_errors(self) -> Array:
        """SE of (6) per arm."""
        return np.sqrt((1.0 - self.nu) ** 2 * self.as_is.variance_of_mean() + self.nu**2 * self.removed.variance_of_mean())

    def arm(self) -> int:
        """The arm in use now."""
        d = self.gains()
        allowed = d > self.z * self.standard_errors()
        if self.count < self.warmup or not allowed.any():
            return EVIDENCE_ARMS.index(self.start)
        return int(np.argmax(np.where(allowed, d, -np.inf)))

    def scores(self, rec: Rec, q: Array, item_ids: Sequence[Hashable], vectors: Array, base: Array | None = None) -> Array:
        """s'(d) of (5) with the arm in use."""
        return self.arm_scores(rec, q, item_ids, vectors, base)[self.arm()]


@dataclass
class MultiplierGate:
    """One global arm (m, theta) chosen by leaving the clicked items' cases out.

    s_gated = s0 + m * sigmoid((c1 - theta) / .05) * (s - s0), c1 the nearest case's cosine; theta None: m
    alone; without cases s0.  The arm in use has the largest (1 - nu) mean(dcg as it is) +
    nu mean(dcg with every case of every clicked item removed); before ``warmup`` events m = 1, theta = .5.
    """

    nu: float = 0.2
    decay: float = 0.999
    warmup: int = 20
    count: int = 0

    def __post_init__(self) -> None:
        self.as_is = RunningGain(len(MULTIPLIER_ARMS), self.decay)
        self.removed = RunningGain(len(MULTIPLIER_ARMS), self.decay)

    def arm_scores(
        self,
        rec: Rec,
        q: Array,
        item_ids: Sequence[Hashable],
        vectors: Array,
        base: Array | None = None,
        removed: frozenset[Hashable] = frozenset(),
    ) -> Array:
        """The gated score for every arm, shape (arms, items)."""
        vectors = np.asarray(vectors, rec.dtype)
        s0 = vectors @ np.asarray(q, rec.dtype) if base is None else np.asarray(base, rec.dtype)
        _, cos = rec.near(q, removed)
        if len(cos) == 0:
            return np.stack([s0 for _ in MULTIPLIER_ARMS])
        step = rec.scores(q, item_ids, vectors, base, removed) - s0
        factors = [m if t is None else m / (1.0 + np.exp(-(cos[0] - t) / 0.05)) for m, t in MULTIPLIER_ARMS]
        return np.stack([s0 + f * step for f in factors])

    def observe(
        self,
        rec: Rec,
        q: Array,
        clicked_ids: Sequence[Hashable],
        item_ids: Sequence[Hashable],
        vectors: Array,
        base: Array | None = None,
    ) -> None:
        """One feedback, before ``rec.learn``."""
        self.count += 1
        clicked = [j for j, d in enumerate(item_ids) if d in set(clicked_ids)]
        self.as_is.add(dcg(self.arm_scores(rec, q, item_ids, vectors, base), clicked))
        gone = frozenset(clicked_ids)
        self.removed.add(dcg(self.arm_scores(rec, q, item_ids, vectors, base, gone), clicked))

    def arm(self) -> int:
        """The arm in use now (first on ties)."""
        if self.count < self.warmup:
            return MULTIPLIER_ARMS.index((1.0, 0.5))
        return int(np.argmax((1.0 - self.nu) * self.as_is.mean() + self.nu * self.removed.mean()))

    def scores(self, rec: Rec, q: Array, item_ids: Sequence[Hashable], vectors: Array, base: Array | None = None) -> Array:
        """The gated score with the arm in use."""
        return self.arm_scores(rec, q, item_ids, vectors, base)[self.arm()]
