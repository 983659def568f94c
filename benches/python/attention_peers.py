"""The contenders of `bench_attention`: what one would write with numpy, torch or numba."""

from __future__ import annotations

from typing import Any

import numpy as np

try:
    import torch
except ImportError:
    torch = None
try:
    import numba
except ImportError:
    numba = None

Array = np.ndarray


def softmax_numpy(q: Array, k: Array, v: Array) -> Array:
    s = q @ np.swapaxes(k, -1, -2)
    s *= np.float32(q.shape[-1] ** -0.5)
    s -= s.max(axis=-1, keepdims=True)
    np.exp(s, out=s)
    out = s @ v
    out /= s.sum(axis=-1, keepdims=True)
    return out


def softmax_torch(q: Any, k: Any, v: Any, mask: Any = None, causal: bool = False) -> Any:
    with torch.inference_mode():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)


def local_global_numpy(q: Array, k: Array, v: Array, w: int, g: int) -> Array:
    """Blocks of w queries against the 3w keys around them and the first g, one batched product."""
    n, d = q.shape
    blocks = n // w
    out = np.empty_like(v)
    pad = np.zeros((w, d), dtype=q.dtype)
    around = [np.concatenate([pad, x, pad]).reshape(blocks + 2, w, -1) for x in (k, v)]
    ks, vs = (np.concatenate([x[:-2], x[1:-1], x[2:]], axis=1) for x in around)
    s = q.reshape(blocks, w, d) @ np.swapaxes(ks, 1, 2)
    i, j = np.arange(w)[:, None], np.arange(3 * w)[None, :] - w
    band = np.abs(i - j) <= w
    at = np.arange(blocks)[:, None, None] * w + j
    s = np.where(band & (at >= g) & (at < n), s, np.float32(-np.inf))
    sg = q.reshape(blocks, w, d) @ k[:g].T
    s = np.concatenate([s, sg], axis=-1) * np.float32(d**-0.5)
    s -= s.max(axis=-1, keepdims=True)
    np.exp(s, out=s)
    total = s.sum(axis=-1, keepdims=True)
    out[:] = ((s[..., : 3 * w] @ vs + s[..., 3 * w :] @ v[:g]) / total).reshape(n, -1)
    out[:g] = softmax_numpy(q[:g], k, v)
    return out


def poincare_numpy(q: Array, k: Array, v: Array) -> Array:
    """Curvature −1, β = 1: distances by one product, the midpoint by another."""
    qq, kk, vv = ((x * x).sum(axis=-1) for x in (q, k, v))
    z = qq[:, None] + kk - 2 * (q @ k.T)
    np.maximum(z, 0, out=z)
    z *= 2 / ((1 - qq)[:, None] * (1 - kk))
    s = -np.log1p(z + np.sqrt(z * (z + 2)))
    s -= s.max(axis=-1, keepdims=True)
    np.exp(s, out=s)
    lam = 2 / (1 - vv)[:, None]
    t = (s @ (lam * v)) / (s @ (lam - 1))
    return t / (1 + np.sqrt(1 - (t * t).sum(axis=-1, keepdims=True)))


def mixture_torch(x: Any, p: dict[str, Any], top_k: int) -> Any:
    """Mixture of attention heads with one head of keys and values, tokens gathered by expert."""
    with torch.inference_mode():
        b, n, width = x.shape
        flat = x.reshape(-1, width)
        logits = flat @ p["router.weight"].T
        best, index = logits.topk(top_k, dim=-1)
        gate = best.softmax(dim=-1)
        groups = [(index == e).nonzero(as_tuple=True) for e in range(logits.shape[-1])]
        hidden = p["input_linear.weight"].shape[1]
        queries = x.new_empty(b * n, top_k, hidden)
        for (rows, place), w in zip(groups, p["input_linear.weight"], strict=True):
            queries[rows, place] = flat[rows] @ w.T
        k, v = (x @ p["kv_proj.weight"].T).chunk(2, dim=-1)
        q = queries.reshape(b, n, top_k, hidden).transpose(1, 2)
        k, v = (y[:, None].expand(-1, top_k, -1, -1) for y in (k, v))
        context = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        context = context.transpose(1, 2).reshape(b * n, top_k, hidden)
        out = p["bias"].repeat(b * n, 1)
        for (rows, place), w in zip(groups, p["output_linear.weight"], strict=True):
            out.index_add_(0, rows, gate[rows, place, None] * (context[rows, place] @ w.T))
        return out.reshape(b, n, width)


def favor_numpy(q: Array, k: Array, v: Array, omega: Array) -> Array:
    """FAVOR+ with the stabilisers of the paper: the largest per query, one for all keys."""
    root = np.float32(q.shape[-1] ** -0.25)
    q, k = q * root, k * root
    pq, pk = q @ omega.T, k @ omega.T
    fq = np.exp(pq - 0.5 * (q * q).sum(axis=-1, keepdims=True) - pq.max(axis=-1, keepdims=True))
    fk = np.exp(pk - 0.5 * (k * k).sum(axis=-1, keepdims=True) - pk.max())
    return (fq @ (fk.T @ v)) / (fq @ fk.sum(axis=0))[:, None]


def favor_torch(q: Any, k: Any, v: Any, omega: Any) -> Any:
    with torch.inference_mode():
        root = q.shape[-1] ** -0.25
        q, k = q * root, k * root
        pq, pk = q @ omega.T, k @ omega.T
        fq = torch.exp(pq - 0.5 * (q * q).sum(dim=-1, keepdim=True) - pq.amax(dim=-1, keepdim=True))
        fk = torch.exp(pk - 0.5 * (k * k).sum(dim=-1, keepdim=True) - pk.max())
        return (fq @ (fk.T @ v)) / (fq @ fk.sum(dim=0))[:, None]


def elu_numpy(q: Array, k: Array, v: Array) -> Array:
    fq, fk = (np.where(x > 0, x + 1, np.exp(np.minimum(x, 0))) for x in (q, k))
    return (fq @ (fk.T @ v)) / (fq @ fk.sum(axis=0))[:, None]


def elu_torch(q: Any, k: Any, v: Any) -> Any:
    with torch.inference_mode():
        fq, fk = torch.nn.functional.elu(q) + 1, torch.nn.functional.elu(k) + 1
        return (fq @ (fk.T @ v)) / (fq @ fk.sum(dim=0))[:, None]


def scan_numpy(u: Array, delta: Array, a: Array, b: Array, c: Array) -> Array:
    """Decays and inputs of all steps at once, then one step after the other."""
    delta = np.log1p(np.exp(delta))
    decay = np.exp(delta[:, :, None] * a)
    gain = (delta * u)[:, :, None] * b[:, None, :]
    h = np.zeros(a.shape, dtype=u.dtype)
    y = np.empty_like(u)
    for t in range(len(u)):
        h *= decay[t]
        h += gain[t]
        y[t] = h @ c[t]
    return y


def _scan(u: Array, delta: Array, a: Array, b: Array, c: Array) -> Array:
    steps, d = u.shape
    y = np.empty_like(u)
    n = a.shape[1]
    h = np.zeros((d, n), dtype=u.dtype)
    for t in range(steps):
        for i in range(d):
            step = np.log1p(np.exp(delta[t, i]))
            gain = step * u[t, i]
            total = np.float32(0.0)
            for s in range(n):
                x = np.exp(step * a[i, s]) * h[i, s] + gain * b[t, s]
                h[i, s] = x
                total += x * c[t, s]
            y[t, i] = total
    return y


scan_numba = numba.njit(fastmath=True)(_scan) if numba else None


def similarity_numpy(a: Array, b: Array, bits: int) -> Array:
    return 1 - 2 * np.bitwise_count(a[:, None] ^ b[None]).sum(axis=-1, dtype=np.int64) / bits


def winners_numpy(x: Array, k: int) -> Array:
    best = np.argpartition(x, len(x) - k)[-k:]
    return best[np.argsort(-x[best], kind="stable")]
