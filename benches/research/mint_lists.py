"""Plain ways to choose twelve of the models that ran the tasks of ``mint``, and to price them; for ``mint_definition.py``."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from operator import mul

import numpy as np
from numpy.typing import NDArray

from sona.bench.datasets import _columns, data_directory
from sona.bench.routing_data import ASSUMED_PRICES, RoutingSet, _assumed_price, load_routing_set

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Price = Callable[[str], tuple[float, float]]


@dataclass(frozen=True)
class Runs:
    """Outcome and tokens of every model that ran every task; NaN tokens where none were recorded."""

    base: RoutingSet
    models: tuple[str, ...]
    success: Floats
    prompt: Floats
    completion: Floats

    def columns(self, models: Sequence[str]) -> list[int]:
        """Positions of models."""
        return [self.models.index(m) for m in models]

    def recorded(self) -> list[str]:
        """Models whose tokens are known, best first."""
        known = [m for m, t in zip(self.models, self.prompt.T, strict=True) if not np.isnan(t).any()]
        return self.ranked(known)

    def ranked(self, models: Sequence[str], rows: Rows | slice = slice(None)) -> list[str]:
        """By success on some tasks."""
        return sorted(models, key=lambda m: -self.success[rows, self.models.index(m)].mean())

    def priced(self, models: Sequence[str], price: Price, basis: str) -> RoutingSet | None:
        """The set at these prices, or None where a model's cost is not known."""
        at = self.columns(models)
        dear, cheap = np.array([price(m) for m in models]).T / 1e6
        cost = self.prompt[:, at] * dear + self.completion[:, at] * cheap
        if basis == "mean per model":
            cost = np.repeat(cost.mean(axis=0)[None], len(cost), axis=0)
        elif basis == "one per request":
            cost = np.repeat(dear[None], len(cost), axis=0)
        return (
            None if np.isnan(cost).any() else replace(self.base, models=tuple(models), quality=self.success[:, at], cost=cost)
        )


def load_runs() -> Runs:
    """Read the tables."""
    folder = data_directory()
    tasks, runs = _columns(folder / "mint_tasks.parquet"), _columns(folder / "mint_runs.parquet")
    key = ("task_type", "dataset", "task_id")
    row = {k: i for i, k in enumerate(zip(*(tasks[c] for c in key), strict=True))}
    table = {m: np.full((len(row), 3), np.nan) for m in sorted(set(runs["model"]))}
    fields = ("success", "prompt_tokens", "completion_tokens")
    for model, *rest in zip(runs["model"], *(runs[c] for c in (*key, *fields)), strict=True):
        table[model][row[tuple(rest[:3])]] = [np.nan if v is None else float(v) for v in rest[3:]]
    whole = tuple(m for m, t in table.items() if not np.isnan(t[:, 0]).any())
    success, prompt, completion = (np.stack([table[m][:, j] for m in whole], axis=1) for j in range(3))
    return Runs(load_routing_set("mint"), whole, success, prompt, completion)


#: Ten models that many have heard of, and two pairs to make it twelve.
WELL_KNOWN = [
    "gpt-4-0613",
    "gpt-3.5-turbo-0613",
    "Meta-Llama-3-70B-Instruct",
    "Meta-Llama-3-8B-Instruct",
    "Mixtral-8x7B-Instruct-v0.1",
    "Mistral-7B-Instruct-v0.2",
    "deepseek-llm-67b-chat",
    "deepseek-coder-33b-instruct",
    "Qwen1.5-72B-Chat",
    "Llama-2-70b-chat-hf",
]
OPEN_CHAT, AUTHORS = ["CodeLlama-34b-Instruct-hf", "openchat-3.5-1210"], ["Eurus-70B-NCA", "CodeActAgent-Mistral-7b-v0.1"]


def size(model: str) -> float:
    """Billions of parameters by the name; of a mixture of experts those that answer a token."""
    found = re.search(r"(\d+(?:\.\d+)?)b\b", model.lower())
    return 13.0 if "8x7B" in model else float(found.group(1)) if found else 7.0


def family(model: str) -> str:
    """First word of the name; generations of Llama by their prefix."""
    return str(re.split(r"[-.\d]", model.replace("Meta-", "New"))[0])


def model_lists(runs: Runs) -> dict[str, list[str]]:
    """Name of a rule → twelve models."""
    ranked = runs.recorded()
    closed = [m for m in ranked if m.startswith("gpt")]
    opened = [m for m in ranked if m not in closed]
    chat = [m for m in ranked if re.search(r"gpt|nstruct|hat|NCA|Starling|Agent|agentlm|vicuna|zephyr", m)]

    def spread(pool: list[str], n: int = 12) -> list[str]:
        return [pool[round(i)] for i in np.linspace(0, len(pool) - 1, n)]

    def at_most(n: int, kind: Callable[[str], object]) -> list[str]:
        return [m for i, m in enumerate(ranked) if sum(kind(o) == kind(m) for o in ranked[:i]) < n]

    covering: list[str] = []
    while len(covering) < 12:
        reached = runs.success[:, runs.columns([*covering, covering[0] if covering else "gpt-4-0613"])].max(axis=1)
        gain = {m: np.maximum(reached, runs.success[:, runs.models.index(m)]).sum() for m in ranked if m not in covering}
        covering.append(max(gain, key=lambda m: gain[m]) if covering else "gpt-4-0613")
    by_size = at_most(1, size)
    return {
        "of the page": list(ASSUMED_PRICES),
        "best": ranked[:12],
        "best in training": runs.ranked(ranked, runs.base.train)[:12],
        "best in test": runs.ranked(ranked, runs.base.test)[:12],
        "best, also without tokens": runs.ranked(runs.models)[:12],
        "one per family": at_most(1, family)[:12],
        "two per family": at_most(2, family)[:12],
        "three per size": at_most(3, size)[:12],
        "one per family and size": at_most(1, lambda m: (family(m), size(m)))[:12],
        "best of every size, then best": (by_size + [m for m in ranked if m not in by_size])[:12],
        "best chat models": chat[:12],
        "chat models, spread": spread(chat),
        "gpt-4 and best open": ["gpt-4-0613", *opened[:11]],
        "gpt-4 and open, spread": ["gpt-4-0613", *spread(opened, 11)],
        "closed and best open": [*closed, *opened[:9]],
        "closed and open, spread": [*closed, *spread(opened, 9)],
        "spread over all": spread(ranked),
        "spread over the best 24": spread(ranked[:24]),
        "spread over the best 36": spread(ranked[:36]),
        "every second": ranked[:24:2],
        "every third": ranked[:36:3],
        "covering most tasks": covering,
        "well known": [*WELL_KNOWN, *OPEN_CHAT],
        "well known and the authors' own": [*WELL_KNOWN, *AUTHORS],
        "last by alphabet": sorted(ranked)[-12:],
    }


def price_lists() -> dict[str, Price]:
    """Name → USD per million prompt and completion tokens."""
    tiers = {
        ".2/.3/.8/.9": (0.2, 0.3, 0.8, 0.9),
        ".2/.6/.8/.9": (0.2, 0.6, 0.8, 0.9),
        ".1/.2/.6/.9": (0.1, 0.2, 0.6, 0.9),
        ".1/.1/.9/.9": (0.1, 0.1, 0.9, 0.9),
        ".2/.2/.9/.9": (0.2, 0.2, 0.9, 0.9),
        ".2/.3/.8/1.2": (0.2, 0.3, 0.8, 1.2),
        ".2/.5/.5/1": (0.2, 0.5, 0.5, 1.0),
        ".07/.13/.5/.7": (0.07, 0.13, 0.5, 0.7),
    }

    def step(steps: tuple[float, ...], billions: float) -> float:
        return steps[int(np.searchsorted((9, 15, 41), billions))]

    opened: dict[str, Callable[[float], float]] = {f"{n} up to 9b/15b/41b/more": partial(step, t) for n, t in tiers.items()}
    opened |= {f"{k:g} per billion": partial(mul, k) for k in (0.01, 0.0125, 0.015, 0.02, 0.03)}
    closed = {
        "gpt 30/60, 1.5/2, 3/4": ((30.0, 60.0), (1.5, 2.0), (3.0, 4.0)),
        "gpt 30/60, .5/1.5": ((30.0, 60.0), (0.5, 1.5), (0.5, 1.5)),
        "gpt 30, 1": ((30.0, 30.0), (1.0, 1.0), (1.0, 1.0)),
        "gpt 10/30, .5/1.5": ((10.0, 30.0), (0.5, 1.5), (0.5, 1.5)),
    }
    asked = ("gpt-4-0613", "gpt-3.5-turbo-0613", "gpt-3.5-turbo-16k-0613", "claude-2", "claude-instant-1")
    claude = ((8.0, 24.0), (0.8, 2.4))

    def rule(of_size: Callable[[float], float], known: dict[str, tuple[float, float]]) -> Price:
        return lambda m: known[m] if m in known else (of_size(size(m)),) * 2

    lists = product(opened.items(), closed.items())
    named = {f"{o}; {c}": rule(f, dict(zip(asked, (*k, *claude), strict=True))) for (o, f), (c, k) in lists}
    return {"of the page": _assumed_price, **named}
