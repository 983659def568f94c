"""Runs the programs of the golden files: calls, gradients and expected errors, against stored arrays.

Format and sources: tests/golden/attention/README.md.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

import sona.attention as attention

FOLDER = Path(__file__).parent / "golden" / "attention"

# Stored numbers that are themselves off by more than their tolerance, with the tolerance that they can carry. Tangent-space
# attention was stored with the noise of single precision (2.5e-7 relative): tests/test_attention_hyperbolic.py shows that
# 64-bit mantissas agree with ours to 1e-12 there.
WIDER = {"hyperbolic-case4": [1e-6, 1e-8]}


def cases(name: str) -> list[tuple[str, dict[str, np.ndarray], dict[str, Any]]]:
    """(label, arrays, params) of every case of one file."""
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = {k: file[k] for k in file.files}
    out = []
    for key in sorted({k.split("/")[0] for k in arrays}, key=lambda c: int(c.removeprefix("case"))):
        params = json.loads(str(arrays[f"{key}/params"]))
        own = {k.split("/", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{key}/") and not k.endswith("/params")}
        params["tol64"] = WIDER.get(f"{name}-{key}", params["tol64"])
        out.append((f"{name}-{key}-{params['name']}", own, params))
    return out


def check_critical_path(result: Any, edges: np.ndarray, cost: np.ndarray) -> None:
    """The path is one of the longest: its nodes follow edges and their costs sum to the makespan."""
    path = [int(v) for v in result.extras["path"]]
    known = {(int(u), int(v)) for u, v in edges}
    assert all(pair in known for pair in itertools.pairwise(path))
    np.testing.assert_allclose(sum(cost[v] for v in path), result.extras["makespan"], rtol=1e-12)


def check_placement(result: Any, edges: np.ndarray, edge_cost: np.ndarray, cost_a: np.ndarray, cost_b: np.ndarray) -> None:
    """The placement costs what it says."""
    site = np.asarray(result.site)
    crossing = sum(c for (u, v), c in zip(edges, edge_cost, strict=True) if site[u] != site[v])
    np.testing.assert_allclose(np.where(site, cost_b, cost_a).sum() + crossing, result.total, rtol=1e-9)


def check_bandit(selector: Any, rewards: np.ndarray, choices: np.ndarray, names: list[str]) -> None:
    """The selector makes the stored choices when each chosen arm pays its next reward."""
    for step, (paid, want) in enumerate(zip(rewards, choices, strict=True)):
        name = selector.select()
        assert name == names[int(want)], f"step {step}"
        selector.update(name, float(paid[int(want)]))


CHECKS = {"critical_path": check_critical_path, "placement": check_placement, "bandit": check_bandit}


class Case:
    """One case: its arrays in one precision, and the objects that its steps keep."""

    def __init__(self, arrays: dict[str, np.ndarray], params: dict[str, Any], *, single: bool) -> None:
        self.params, self.single = params, single
        self.want = arrays
        self.arrays = {k: v.astype(np.float32) if single and v.dtype == np.float64 else v for k, v in arrays.items()}
        self.kept: dict[str, Any] = {}

    def value(self, x: Any) -> Any:
        if isinstance(x, str) and x.startswith("$"):
            a = self.arrays[x[1:]]
            return a if a.ndim else a.item()
        if isinstance(x, str) and x.startswith("@"):
            return self.target(x)
        if isinstance(x, list):
            return [self.value(i) for i in x]
        if isinstance(x, dict):
            return {k: self.value(v) for k, v in x.items()}
        return x

    def target(self, name: str) -> Any:
        if not name.startswith("@"):
            root: Any = attention
            path = name.split(".")
        else:
            head, *path = name[1:].split(".")
            root = self.kept[head]
        for part in path:
            root = getattr(root, part)
        return root

    def compare(self, got: Any, name: str, where: str) -> None:
        want = self.want[name]
        rtol, atol = self.params["tol32" if self.single else "tol64"]
        if want.dtype.kind != "f":
            np.testing.assert_array_equal(np.asarray(got), want, err_msg=where)
            return
        got = np.asarray(got, dtype=np.float64)
        assert got.shape == want.shape, f"{where}: shape {got.shape}, expected {want.shape}"
        assert not np.isnan(got).any(), f"{where}: NaN"
        np.testing.assert_array_equal(np.isinf(got), np.isinf(want), err_msg=where)
        finite = np.isfinite(want)
        np.testing.assert_array_equal(got[~finite], want[~finite], err_msg=where)
        if finite.any():
            top = np.abs(want[finite]).max()
            slack = atol * max(1.0, top) if self.single else atol * top + 1e-12
            excess = np.abs(got[finite] - want[finite]) - rtol * np.abs(want[finite]) - slack
            assert excess.max() <= 0, f"{where}: off by {excess.max() + slack:.3g}, allowed {slack:.3g} + {rtol} relative"

    def expect(self, result: Any, step: dict[str, Any], where: str) -> None:
        for path, name in step.get("expect", {}).items():
            got, rest = result, path
            while rest:
                if isinstance(got, dict):  # keys may contain dots
                    got, rest = got[rest], ""
                else:
                    part, _, rest = rest.partition(".")
                    got = getattr(got, part)
            self.compare(got, name, f"{where}: {path or 'result'} against {name}")

    def step(self, step: dict[str, Any]) -> None:
        args, kwargs = self.value(step.get("args", [])), self.value(step.get("kwargs", {}))
        if "vjp" in step:
            result, pullback = attention.vjp(self.target(step["vjp"]), *args, **kwargs)
            dout = self.value(step["dout"])
            grads = pullback(*dout) if isinstance(dout, list) else pullback(dout)
            self.expect(grads, step, f"vjp {step['vjp']}")
            return
        if "check" in step:
            CHECKS[step["check"]](*args)
            return
        call = self.target(step["call"])
        result = call(*args, **kwargs)
        if "let" in step:
            self.kept[step["let"]] = result
        self.expect(result, step, step["call"])

    def run(self) -> None:
        for step in self.params["program"]:
            if self.single and "vjp" in step:
                continue
            self.step(step)
