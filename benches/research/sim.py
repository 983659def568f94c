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
        self.click_case: list[int] = []
        self.click_item: list[int] = []
        self.cases_of: dict[int, list[int]] = {}
        self.rng = np.random.default_rng(seed + 777)
        self.evidence = np.zeros(len(items), np.float32)
        if o.gate == "multiplier":
            self.arms = [(m, t) for m in (0, 0.25, 0.5, 1, 1.5) for t in (None, 0.4, 0.5, 0.6, 0.7, 0.8)]
        else:
            self.arms = [(b, lam) for b in BETAS for lam in LAMBDAS]
        k = len(self.arms)
        self.stats = [[0.0, np.zeros(k), np.zeros(k)] for _ in range(2)]
        self.events = 0

    # ---- scores -------------------------------------------------------------------------------------
    def kernels(self, q: F32) -> F32:
        return self.q[: self.n] @ q

    def recall_from(self, b: F32) -> F32:
        w = b[np.asarray(self.click_case, int)] if self.n else np.zeros(0)
        r = np.bincount(np.asarray(self.click_item, int), weights=w, minlength=len(self.items))
        return (r / (b.sum() + self.o.kappa)).astype(np.float32)

    def parts(self, q: F32, cos: F32, drop: list[int] | None = None) -> tuple[F32, F32, F32]:
        """(s, r, novelty) without offset; `drop` = removed cases."""
        o = self.o
        if self.n == 0 or (drop is not None and len(drop) == self.n):
            z = np.zeros(len(self.items), np.float32)
            return self.items @ q, z, z
        a = np.exp((cos - 1) / o.h_a)
        b = np.exp((cos - 1) / o.h_r)
        c = np.exp((cos - 1) / o.h_q)
        if drop:
            a[drop] = 0
            b[drop] = 0
            c[drop] = 0
        u = q + o.eta * (a @ self.g[: self.n])
        u /= np.linalg.norm(u)
        r = self.recall_from(b)
        nov = q - (c @ self.q[: self.n]) / max(c.sum(), 1e-30)
        s_nov = self.items @ np.stack([u, nov], 1)
        return s_nov[:, 0] + o.w * r, r, s_nov[:, 1]

    def offset_arm(self) -> int:
        o = self.o
        (n, s1, s2), (n2, t1, t2) = self.stats
        if o.gate == "multiplier":
            if self.events < o.warmup:
                return self.arms.index((1, 0.5))
            return int(np.argmax((1 - o.nu) * s1 / n + o.nu * t1 / max(n2, 1e-9)))
        if self.events < o.warmup or n == 0:
            return 0
        n2 = max(n2, 1e-9)
        dd = (1 - o.nu) * s1 / n + o.nu * t1 / n2
        var = (1 - o.nu) ** 2 * np.maximum(s2 / n - (s1 / n) ** 2, 0) / n
        var = var + o.nu**2 * np.maximum(t2 / n2 - (t1 / n2) ** 2, 0) / n2
        ok = dd > o.z * np.sqrt(var)
        return int(np.argmax(np.where(ok, dd, -np.inf))) if ok.any() else 0

    def all_arms(self, q: F32, s: F32, nov: F32, e: F32, c1: float) -> F32:
        if self.o.gate == "multiplier":
            s0 = self.items @ q
            f = np.array([m if t is None else m / (1 + np.exp(-(c1 - t) / 0.05)) for m, t in self.arms])
            return s0 + f[:, None].astype(np.float32) * (s - s0)
        beta, lam = np.array(self.arms, np.float32).T
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
        beta, lam = self.arms[arm]
        return s + (self.evidence < 1) * np.float32(1) * (np.float32(beta) + np.float32(lam) * nov)

    def rank(self, q: F32) -> tuple[F32, F32]:
        """(score to show by, un-offset score)."""
        cos = self.kernels(q)
        s, r, nov = self.parts(q, cos)
        self.last = (cos, s, r, nov)
        return self.gated(q, s, nov, float(cos.max()) if self.n else -1.0), s

    def rank_many(self, qs: F32, block: int = 512) -> F32:
        o = self.o
        out = np.empty((len(qs), len(self.items)), np.float32)
        if self.n == 0:
            return qs @ self.items.T
        cl = np.zeros((self.n, len(self.items)), np.float32) if len(self.items) < 1000 else None
        if cl is not None:
            cl[self.click_case, self.click_item] = 1
        for i in range(0, len(qs), block):
            q = qs[i : i + block]
            cos = q @ self.q[: self.n].T
            u = q + o.eta * (np.exp((cos - 1) / o.h_a) @ self.g[: self.n])
            u /= np.linalg.norm(u, axis=1, keepdims=True)
            b = np.exp((cos - 1) / o.h_r)
            if cl is not None:
                r = b @ cl / (b.sum(1, keepdims=True) + o.kappa)
            else:
                r = np.stack([self.recall_from(row) for row in b])
            s = u @ self.items.T + o.w * r
            if o.gate == "none":
                out[i : i + block] = s
                continue
            c = np.exp((cos - 1) / o.h_q)
            qbar = (c @ self.q[: self.n]) / np.maximum(c.sum(1, keepdims=True), 1e-30)
            nov = (q - qbar) @ self.items.T
            for j in range(len(q)):
                out[i + j] = self.gated(q[j], s[j], nov[j], float(cos[j].max()))
        return out

    # ---- feedback -----------------------------------------------------------------------------------
    def add_stats(self, which: int, x: NDArray[np.float64]) -> None:
        st = self.stats[which]
        dec = self.o.decay
        st[0] = dec * st[0] + 1
        st[1] = dec * st[1] + x
        st[2] = dec * st[2] + x * x

    @staticmethod
    def dcg(scores: F32, rel: list[int], keep: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
        total = np.zeros(len(scores))
        for j in rel:
            above = scores > scores[:, j : j + 1]
            if keep is not None:
                above &= keep
            total += 1 / np.log2(2.0 + above.sum(1))
        return total

    def observe(self, q: F32, clicked: list[int]) -> None:
        o = self.o
        cos, s, r, nov = self.last
        self.events += 1
        if o.gate == "evidence" and self.events >= o.score_from:
            e = (self.evidence < 1).astype(np.float32)
            x = self.dcg(self.all_arms(q, s, nov, e, 0.0), clicked)
            self.add_stats(0, x - x[0])
            a = int(self.rng.choice(clicked))
            drop = self.cases_of.get(a, [])
            if drop or not o.removed_needs_cases:
                s2, _, nov2 = self.parts(q, cos, drop) if drop else (s, r, nov)
                e2 = e.copy()
                e2[a] = 1
                keep = np.ones(len(s), bool)
                keep[clicked] = False
                x = self.dcg(self.all_arms(q, s2, nov2, e2, 0.0), [a], keep)
                self.add_stats(1, x - x[0])
        elif o.gate == "multiplier":
            c1 = float(cos.max()) if self.n else -1.0
            self.add_stats(0, self.dcg(self.all_arms(q, s, nov, nov, c1), clicked))
            drop = sorted({k for a in clicked for k in self.cases_of.get(a, [])})
            left = np.delete(cos, drop)
            s2 = self.parts(q, cos, drop)[0] if drop else s
            c1 = float(left.max()) if len(left) else -1.0
            self.add_stats(1, self.dcg(self.all_arms(q, s2, nov, nov, c1), clicked))
        self.evidence[clicked] += r[clicked]

    def learn(self, q: F32, clicked: list[int], shown: NDArray[np.int64]) -> None:
        o = self.o
        s = self.last[1]
        top = np.argpartition(-s, o.top)[: o.top] if len(s) > o.top else np.arange(len(s))
        cand = np.union1d(top, shown)
        z = np.exp((s[cand] - s[cand].max()) / o.tau)
        p = z / z.sum()
        y = np.isin(cand, clicked) / len(clicked)
        k = self.n
        self.q[k] = q
        self.g[k] = (y - p).astype(np.float32) @ self.items[cand]
        for a in clicked:
            self.click_case.append(k)
            self.click_item.append(a)
            self.cases_of.setdefault(a, []).append(k)
        self.n += 1


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
        eng.observe(q, clicked)
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
