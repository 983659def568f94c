"""Streaming simulation of the click protocol with a vectorised REC and the variants under study.

The rule is that of ``tests/reference/rec_reference.py``; here it runs in float32 over whole streams.
`Options` names every change that the experiments try; the defaults are the published recipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from data import DataSet
from numpy.typing import NDArray

F32 = NDArray[np.float32]
BETAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3)
LAMBDAS = (0.0, 0.5, 1.0)
RELATIVE_BETAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
MAX_CLICKS = 10


@dataclass(frozen=True)
class Options:
    """The rule. Everything at its default is REC; gate="evidence" adds the evidence term."""

    eta: float = 0.6
    h_a: float = 0.2
    tau: float = 0.1
    w: float = 0.2
    h_r: float = 0.05
    kappa: float = 0.001
    top: int = 50
    gate: str = "none"  # none | evidence | multiplier
    nu: float = 0.2
    z: float = 3.0
    decay: float = 0.999
    h_q: float = 0.1
    score_from: int = 6
    warmup: int = 20
    removed_needs_cases: bool = False
    neighbors: int | None = None  # only the nearest cases count
    p_power: float = 0.0  # g *= p_click ** p_power, p_click the click's softmax share before the update
    p_power_recall: float = 0.0  # the same for the case's mass in the recall
    vote: float = 0.0  # prior weight of "the cases near a case vote on it" (0 = off)
    vote_width: float = 0.05
    vote_p: float = 0.0  # a case's credibility before any vote: p_click ** vote_p
    vote_on: str = "both"  # both | recall | adapt
    replay: int = 0  # old cases per feedback whose g gets another gradient
    replay_rate: float = 0.3
    replay_near: bool = True
    g_scale: float = 1.0
    em: bool = False  # weight of a case = posterior that its click is no stray, share of strays by online EM
    em_prior: float = 1.0  # stray clicks assumed beforehand, of em_prior_n
    em_prior_n: float = 20.0
    em_tau: float = 0.1
    em_recall: bool = False
    start_arm: tuple[float, float] = (0.0, 0.0)  # the arm used until another beats it by z standard errors
    fixed: bool = False  # always start_arm
    weigh: bool = False  # gate statistics and evidence count a feedback by its credibility
    nu_mode: str = "fixed"  # fixed | share: the frozen belief that requests want unproven items
    nu_scale: float = 1.0
    relative: bool = False  # beta in units of the largest boost that the request gives any item
    proof: float = 1.0  # evidence from which an item counts as proven
    soft: bool = False  # e = max(0, 1 - E) in place of a threshold
    z_down: float | None = None  # z for an arm with less handicap than start_arm (None: z)
    others: int = 0  # further simulated removals per feedback, from old cases
    cover: str = "off"  # off | proven | clicked: scale e by the running share of shown items that are so
    cover_full: float = 1.0  # share from which e is whole
    cover_on: str = "all"  # all | start: which arms it scales
    cover_request: bool = False  # share of this request's best items, in place of the running mean


@dataclass(frozen=True)
class Condition:
    """What the users do: share of noise events, share of items that never get clicks."""

    noise: float = 0.0
    hidden: float = 0.0


@dataclass
class Result:
    """Per test request: metric of the frozen and the learned ranking, for all, seen and unseen items."""

    marks: dict[int | str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    feedbacks: int = 0
    info: dict[str, object] = field(default_factory=dict)


def metric_rows(s: F32, rel: list[list[int]], metric: str) -> NDArray[np.float64]:
    """hit@1 or nDCG@10 per row; NaN scores and ties rank worst; rows without relevant items are NaN."""
    s = np.where(np.isnan(s), -np.inf, s)
    out = np.full(len(rel), np.nan)
    for i, r in enumerate(rel):
        if not r:
            continue
        row = s[i]
        if metric == "hit":
            j = r[0]
            out[i] = float((row >= row[j]).sum() == 1 and np.isfinite(row[j]))
            continue
        ranks = np.array([(row >= row[j]).sum() for j in r])
        gain = (1.0 / np.log2(1.0 + ranks))[ranks <= 10].sum()
        out[i] = gain / (1.0 / np.log2(2.0 + np.arange(min(10, len(r))))).sum()
    return out


class Engine:
    """Cases, scores, feedback."""

    def __init__(self, o: Options, items: F32, capacity: int, seed: int) -> None:
        self.o, self.items = o, items
        d = items.shape[1]
        self.q = np.zeros((capacity, d), np.float32)
        self.g = np.zeros((capacity, d), np.float32)
        self.n = 0
        self.mass_a = np.ones(capacity, np.float32)
        self.mass_r = np.ones(capacity, np.float32)
        self.mass_0 = np.ones(capacity, np.float32)
        self.stray = [o.em_prior, o.em_prior_n]
        self.pro = np.zeros(capacity, np.float32)
        self.con = np.zeros(capacity, np.float32)
        self.cand: list[NDArray[np.int64]] = []
        self.clicked: list[list[int]] = []
        self.click = np.full((capacity, MAX_CLICKS), -1)
        self.cases_of: dict[int, list[int]] = {}
        self.rng = np.random.default_rng(seed + 777)
        self.evidence = np.zeros(len(items), np.float32)
        if o.gate == "multiplier":
            self.arms = [(m, t) for m in (0, 0.25, 0.5, 1, 1.5) for t in (None, 0.4, 0.5, 0.6, 0.7, 0.8)]
        else:
            betas = RELATIVE_BETAS if o.relative else BETAS
            self.arms = [(b, lam) for b in betas for lam in LAMBDAS]
        k = len(self.arms)
        self.stats = [[0.0, np.zeros(k), np.zeros(k)] for _ in range(2)]
        self.events = 0
        self.share = [o.nu * 5, 5.0]
        self.clicks = np.zeros(len(items), bool)
        self.covered = [0.0, 0.0]
        self.places = 5

    # ---- scores -------------------------------------------------------------------------------------
    def kernels(self, q: F32) -> F32:
        return self.q[: self.n] @ q

    def recall_from(self, b: F32, idx: NDArray[np.int64]) -> F32:
        c = self.click[idx]
        w = np.repeat(b, c.shape[1]).reshape(c.shape)
        r = np.bincount(c[c >= 0], weights=w[c >= 0], minlength=len(self.items))
        return (r / (b.sum() + self.o.kappa)).astype(np.float32)

    def near(self, cos: F32) -> NDArray[np.int64]:
        k = self.o.neighbors
        return np.arange(self.n) if k is None or self.n <= k else np.argpartition(-cos, k)[:k]

    def weights(self, cos: F32, idx: NDArray[np.int64] | slice) -> tuple[F32, F32, F32]:
        """Kernel weights (a, b, c) of the cases `idx` for adapt, recall and mean; one request or many."""
        o = self.o
        a = np.exp((cos - 1) / o.h_a) * self.mass_a[idx]
        b = np.exp((cos - 1) / o.h_r) * self.mass_r[idx]
        if o.vote:
            start = o.vote * self.mass_0[idx]
            cred = (self.pro[idx] + start) / (self.pro[idx] + self.con[idx] + o.vote)
            if o.vote_on != "recall":
                a *= cred
            if o.vote_on != "adapt":
                b *= cred
        return a, b, np.exp((cos - cos.max(-1, keepdims=True)) / o.h_q)

    def parts(self, q: F32, cos: F32, drop: int | list[int] | None = None) -> tuple[F32, F32, F32]:
        """(s, r, novelty) without offset; `drop` = items whose cases are removed."""
        o = self.o
        idx = self.near(cos) if self.n else np.zeros(0, int)
        if drop is not None:
            idx = idx[~np.isin(self.click[idx], drop).any(1)]
        if len(idx) == 0:
            z = np.zeros(len(self.items), np.float32)
            return self.items @ q, z, z
        a, b, c = self.weights(cos[idx], idx)
        u = q + o.eta * (a @ self.g[idx])
        u /= np.linalg.norm(u)
        r = self.recall_from(b, idx)
        nov = q - (c @ self.q[idx]) / c.sum()
        s_nov = self.items @ np.stack([u, nov], 1)
        return s_nov[:, 0] + o.w * r, r, s_nov[:, 1]

    def offset_arm(self) -> int:
        o = self.o
        (n, s1, s2), (n2, t1, t2) = self.stats
        if o.gate == "multiplier":
            if self.events < o.warmup:
                return self.arms.index((1, 0.5))
            return int(np.argmax((1 - o.nu) * s1 / n + o.nu * t1 / max(n2, 1e-9)))
        start = self.arms.index(o.start_arm)
        if o.fixed or self.events < o.warmup or n == 0:
            return start
        n2 = max(n2, 1e-9)
        nu = self.nu_now()
        dd = (1 - nu) * s1 / n + nu * t1 / n2
        var = (1 - nu) ** 2 * np.maximum(s2 / n - (s1 / n) ** 2, 0) / n
        var = var + nu**2 * np.maximum(t2 / n2 - (t1 / n2) ** 2, 0) / n2
        ok = dd > o.z * np.sqrt(var)
        return int(np.argmax(np.where(ok, dd, -np.inf))) if ok.any() else start

    def nu_now(self) -> float:
        o = self.o
        return o.nu if o.nu_mode == "fixed" else min(0.9, o.nu_scale * self.share[0] / self.share[1])

    def unproven(self) -> F32:
        if self.o.soft:
            return np.maximum(0, 1 - self.evidence)
        return (self.evidence < self.o.proof).astype(np.float32)

    def known(self, shown: NDArray[np.int64]) -> float:
        """Share of the shown items that are proven, or that were ever clicked."""
        o = self.o
        return float((1 - self.unproven()[shown]).mean() if o.cover == "proven" else self.clicks[shown].mean())

    def coverage(self, s: F32) -> np.float32:
        o = self.o
        if o.cover == "off":
            return np.float32(1)
        if o.cover_request:
            k = self.places
            c = self.known(np.argpartition(-s, k)[:k] if len(s) > k else np.arange(len(s)))
        else:
            c = self.covered[0] / max(self.covered[1], 1e-9)
        return np.float32(min(1.0, c / o.cover_full))

    def betas(self, s: F32) -> tuple[F32, F32]:
        """(beta, lambda) of every arm for this request."""
        beta, lam = np.array(self.arms, np.float32).T
        c = self.coverage(s)
        if self.o.cover_on == "all":
            return beta * c, lam * c
        start = self.arms.index(self.o.start_arm)
        beta[start] *= c
        lam[start] *= c
        return beta, lam

    def all_arms(self, q: F32, s: F32, nov: F32, e: F32, c1: float) -> F32:
        if self.o.gate == "multiplier":
            s0 = self.items @ q
            f = np.array([m if t is None else m / (1 + np.exp(-(c1 - t) / 0.05)) for m, t in self.arms])
            return s0 + f[:, None].astype(np.float32) * (s - s0)
        beta, lam = self.betas(s)
        if self.o.relative:
            beta = beta * max(0.0, float((s - self.items @ q).max()))
        return s + e * (beta[:, None] + lam[:, None] * nov)

    def gated(self, q: F32, s: F32, nov: F32, c1: float) -> F32:
        o = self.o
        if o.gate == "none" or self.n == 0:
            return s
        arm = self.offset_arm()
        if o.gate == "multiplier":
            m, t = self.arms[arm]
            s0 = self.items @ q
            return s0 + np.float32(m if t is None else m / (1 + np.exp(-(c1 - t) / 0.05))) * (s - s0)
        beta, lam = (x[arm] for x in self.betas(s))
        if o.relative:
            beta *= max(0.0, float((s - self.items @ q).max()))
        return s + self.unproven() * (np.float32(beta) + np.float32(lam) * nov)

    def rank(self, q: F32) -> tuple[F32, F32]:
        """(score to show by, un-offset score)."""
        cos = self.kernels(q)
        s, r, nov = self.parts(q, cos)
        self.last = (cos, s, r, nov)
        return self.gated(q, s, nov, float(cos.max()) if self.n else -1.0), s

    def rank_many(self, qs: F32) -> F32:
        if self.n == 0:
            return qs @ self.items.T
        cos = qs @ self.q[: self.n].T
        out = np.empty((len(qs), len(self.items)), np.float32)
        for j, q in enumerate(qs):
            s, _, nov = self.parts(q, cos[j])
            out[j] = self.gated(q, s, nov, float(cos[j].max()))
        return out

    # ---- feedback -----------------------------------------------------------------------------------
    def add_stats(self, which: int, x: NDArray[np.float64], weight: float = 1.0) -> None:
        st = self.stats[which]
        dec = self.o.decay
        st[0] = dec * st[0] + weight
        st[1] = dec * st[1] + weight * x
        st[2] = dec * st[2] + weight * x * x

    @staticmethod
    def dcg(scores: F32, rel: list[int], keep: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        total = np.zeros(len(scores))
        for j in rel:
            above = scores > scores[:, j : j + 1]
            if keep is not None:
                above &= keep
            total += 1 / np.log2(2.0 + above.sum(1))
        return total

    def credibility(self, clicked: list[int], shown: NDArray[np.int64]) -> float:
        """Posterior that a click is no stray: (1 - eps) p / ((1 - eps) p + eps |C| / shown); updates eps."""
        o, s = self.o, self.last[1]
        if not o.em:
            return 1.0
        zs = np.exp((s[shown] - s[shown].max()) / o.em_tau)
        ps = float(zs[np.isin(shown, clicked)].sum() / zs.sum())
        eps = self.stray[0] / self.stray[1]
        rho = (1 - eps) * ps / ((1 - eps) * ps + eps * len(clicked) / len(shown))
        self.stray = [self.stray[0] * o.decay + 1 - rho, self.stray[1] * o.decay + 1]
        return rho

    def observe(self, q: F32, clicked: list[int], shown: NDArray[np.int64]) -> None:
        o = self.o
        cos, s, r, nov = self.last
        self.events += 1
        self.places = len(shown)
        if o.cover != "off":
            self.covered = [self.covered[0] * o.decay + self.known(shown), self.covered[1] * o.decay + 1]
        self.rho = self.credibility(clicked, shown)
        weight = self.rho if o.weigh else 1.0
        if o.gate == "evidence" and self.events >= o.score_from and not o.fixed:
            ref = self.arms.index(o.start_arm)
            e = self.unproven()
            x = self.dcg(self.all_arms(q, s, nov, e, 0.0), clicked)
            self.add_stats(0, x - x[ref], weight)
            self.removed_copy(q, cos, s, nov, e, clicked, ref, weight)
            for k in self.rng.integers(0, self.n, o.others) if self.n else ():
                cos_k = self.kernels(self.q[k])
                old_weight = float(self.mass_a[k])
                self.removed_copy(self.q[k], cos_k, None, None, e, self.clicked[k], ref, old_weight)
            if o.nu_mode == "share":
                s0 = self.items @ q
                p0 = np.exp((s0 - s0.max()) / o.tau)
                self.share[0] = self.share[0] * o.decay + float((p0 * e).sum() / p0.sum())
                self.share[1] = self.share[1] * o.decay + 1
        elif o.gate == "multiplier":
            c1 = float(cos.max()) if self.n else -1.0
            self.add_stats(0, self.dcg(self.all_arms(q, s, nov, nov, c1), clicked))
            drop = sorted({k for a in clicked for k in self.cases_of.get(a, [])})
            left = np.delete(cos, drop)
            s2 = self.parts(q, cos, clicked)[0] if drop else s
            c1 = float(left.max()) if len(left) else -1.0
            self.add_stats(1, self.dcg(self.all_arms(q, s2, nov, nov, c1), clicked))
        self.evidence[clicked] += r[clicked] * weight
        self.clicks[clicked] = True

    def removed_copy(
        self,
        q: F32,
        cos: F32,
        s: F32 | None,
        nov: F32 | None,
        e: F32,
        clicked: list[int],
        ref: int,
        weight: float,
    ) -> None:
        """Score the arms for one clicked item as if it never had a case."""
        a = int(self.rng.choice(clicked))
        if s is None or self.cases_of.get(a):
            s, _, nov = self.parts(q, cos, a)
        e = e.copy()
        e[a] = 1
        keep = np.ones(len(s), bool)
        keep[clicked] = False
        x = self.dcg(self.all_arms(q, s, nov, e, 0.0), [a], keep)
        self.add_stats(1, x - x[ref], weight)

    def learn(self, q: F32, clicked: list[int], shown: NDArray[np.int64]) -> None:
        o = self.o
        cos, s = self.last[0], self.last[1]
        top = np.argpartition(-s, o.top)[: o.top] if len(s) > o.top else np.arange(len(s))
        cand = np.union1d(top, shown)
        k = self.n
        y, p = self.target(cand, clicked, s)
        self.q[k] = q
        share = float(p[y > 0].sum())
        self.mass_0[k] = share**o.vote_p
        self.mass_a[k] = o.g_scale * share**o.p_power
        self.mass_r[k] = share**o.p_power_recall
        self.mass_a[k] *= self.rho
        if o.em_recall:
            self.mass_r[k] *= self.rho
        self.g[k] = (y - p).astype(np.float32) @ self.items[cand]
        if o.vote and k:
            b = np.exp((cos - 1) / o.vote_width)
            same = np.zeros(k, bool)
            for a in clicked:
                same[self.cases_of.get(a, [])] = True
            self.pro[:k] += np.where(same, b, 0)
            self.con[:k] += np.where(same, 0, b)
            self.pro[k], self.con[k] = b[same].sum(), b[~same].sum()
        self.cand.append(cand)
        self.clicked.append(clicked)
        self.click[k, : len(clicked)] = clicked
        for a in clicked:
            self.cases_of.setdefault(a, []).append(k)
        self.n += 1
        if o.replay and k:
            near = np.argsort(-cos)[: o.replay]
            old = near if o.replay_near else self.rng.integers(0, k, min(o.replay, k))
            for j in old:
                sj = self.parts(self.q[j], self.kernels(self.q[j]))[0]
                y, p = self.target(self.cand[j], self.clicked[j], sj)
                self.g[j] += o.replay_rate * ((y - p).astype(np.float32) @ self.items[self.cand[j]])

    def target(self, cand: NDArray[np.int64], clicked: list[int], s: F32) -> tuple[F32, F32]:
        z = np.exp((s[cand] - s[cand].max()) / self.o.tau)
        return np.isin(cand, clicked) / len(clicked), z / z.sum()


def simulate(
    ds: DataSet,
    o: Options,
    cond: Condition,
    seed: int,
    marks: tuple[int, ...] = (),
    engine: type[Engine] = Engine,
) -> Result:
    """One stream; metrics at the feedback counts `marks` and at the end ("end")."""
    rng = np.random.default_rng(seed)
    m = len(ds.items)
    hidden = np.zeros(m, bool)
    if cond.hidden:
        hidden[rng.permutation(m)[: round(cond.hidden * m)]] = True
    order = rng.permutation(len(ds.pool))
    if ds.metric == "hit":
        order = np.array([i for i in order if not hidden[ds.pool_rel[i][0]]])
    order = order[: ds.requests]
    clickable = np.zeros(m, bool)
    for i in order if ds.metric == "ndcg" else range(len(ds.pool)):
        clickable[ds.pool_rel[i]] = True
    clickable &= ~hidden
    eng = engine(o, ds.items, len(order), seed)
    res = Result()
    seen_rel = [[j for j in r if clickable[j]] for r in ds.test_rel]
    unseen_rel = [[j for j in r if not clickable[j]] for r in ds.test_rel]

    def rows(s: F32) -> dict[str, NDArray[np.float64]]:
        out = {"all": metric_rows(s, ds.test_rel, ds.metric)}
        if cond.hidden or ds.metric == "ndcg":
            for key, rel, other in (("seen", seen_rel, unseen_rel), ("unseen", unseen_rel, seen_rel)):
                t = s.copy()
                for i, gone in enumerate(other):
                    t[i, gone] = -np.inf
                out[key] = metric_rows(t, rel, ds.metric)
        return out

    frozen = rows(ds.test @ ds.items.T)

    def mark(key: int | str) -> None:
        got = rows(eng.rank_many(ds.test))
        res.marks[key] = {k: got[k] - frozen[k] for k in got}
        res.marks[key]["frozen"] = frozen["all"]

    for i in order:
        q = ds.pool[i]
        shown_by, _ = eng.rank(q)
        shown = np.argpartition(-shown_by, ds.shown)[: ds.shown] if m > ds.shown else np.arange(m)
        if cond.noise and rng.random() < cond.noise:
            j = int(rng.choice(shown))
            clicked = [] if hidden[j] else [j]
        else:
            rel = ds.pool_rel[i]
            clicked = [int(j) for j in shown if j in rel and not hidden[j]]
        if not clicked:
            continue
        eng.observe(q, clicked, shown)
        eng.learn(q, clicked, shown)
        res.feedbacks += 1
        if res.feedbacks in marks:
            mark(res.feedbacks)
    mark("end")
    return res


def boot(diffs: list[NDArray[np.float64]], draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Seed-mean difference per request, its mean over requests and the 95 % bootstrap interval."""
    x = np.stack(diffs)
    have = ~np.isnan(x).all(0)
    with np.errstate(all="ignore"):
        per = np.nanmean(x[:, have], 0)
    mean = float(np.nanmean(x))
    rng = np.random.default_rng(seed)
    means = np.array([per[rng.integers(0, len(per), len(per))].mean() for _ in range(draws)])
    lo, hi = np.quantile(means - per.mean() + mean, [0.025, 0.975])
    return mean, float(lo), float(hi)
