"""One request from question to answer: embed, adapt, recall, route, call, judge, learn."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from sona.exceptions import ConfigError, LearningError

if TYPE_CHECKING:
    from sona.engine import SonaEngine
    from sona.process_journal import RouterJournal
    from sona.routing import TinyDancerRouter

__all__ = ["Answer", "ChatModel", "Context", "Model", "Response"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """On whose behalf a request runs.

    Attributes
    ----------
    user_id, session_id : str
        Noted with what is learned, so that ``forget(user=…)`` finds it.
    metadata : dict
        Handed to models and judge.
    scope : str
        Whose knowledge is used and added to, and whose budget pays.
    """

    user_id: str = ""
    session_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    scope: str = "default"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and what the call cost (None: its list price)."""

    text: str
    cost: float | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A model to route to: ``call(question, context)`` gives a text or an :class:`Answer`; ``price`` is per call."""

    call: Callable[[str, Context], str | Answer]
    price: float


@dataclass(frozen=True, slots=True)
class Response:
    """The answer to one request.

    Attributes
    ----------
    text : str
    confidence : float
        Calibrated expected quality of the model on this request, in [0, 1].
    patterns_used : int
        Patterns of earlier requests that were found.
    latency_us : float
        Of the whole request, in microseconds; without the model's call it is ``overhead_us``.
    model : str
    cost : float
    decision_id : str
        For ``SonaEngine.outcome``.
    quality : float or None
        The judge's verdict, if there is a judge.
    overhead_us : float
    """

    text: str
    confidence: float
    patterns_used: int
    latency_us: float
    model: str
    cost: float
    decision_id: str
    quality: float | None
    overhead_us: float


class ChatModel:
    """A model behind an OpenAI-compatible ``/chat/completions`` endpoint, for :class:`Model`.

    Parameters
    ----------
    url : str
        Base URL, for instance ``"http://localhost:8000/v1"``.
    model : str
        Name that the endpoint knows.
    input_price, output_price : float
        Per million tokens; the cost of a call is computed from the usage that the endpoint reports.
    api_key : str, optional
        Sent as bearer token.
    timeout_s : float, default 60.0

    Examples
    --------
    >>> ChatModel("http://localhost:8000/v1", "small", input_price=0.2, output_price=0.6)
    ChatModel('http://localhost:8000/v1', 'small')
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        input_price: float = 0.0,
        output_price: float = 0.0,
        api_key: str | None = None,
        timeout_s: float = 60.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"url: expected http:// or https://, got {url!r}")
        self.url, self.model = url.rstrip("/"), model
        self._prices = (input_price, output_price)
        self._key, self._timeout = api_key, timeout_s

    def __call__(self, question: str, context: Context) -> Answer:
        """Ask; raises OSError if the endpoint fails, and ValueError if its answer is not understood."""
        body = {"model": self.model, "messages": [{"role": "user", "content": question}]}
        if context.user_id:
            body["user"] = context.user_id
        headers = {"Content-Type": "application/json"}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(f"{self.url}/chat/completions", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self._timeout) as reply:
            data = json.load(reply)
        try:
            text = str(data["choices"][0]["message"]["content"])
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"{self.url}: no choices[0].message.content in the answer") from None
        usage = data.get("usage")
        if not isinstance(usage, dict):
            return Answer(text)
        tokens = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
        return Answer(text, sum(float(t) * p for t, p in zip(tokens, self._prices, strict=True)) / 1e6)

    def __repr__(self) -> str:
        return f"ChatModel({self.url!r}, {self.model!r})"


class Processor:
    """The part of an engine that answers requests: models, router, judge."""

    def __init__(
        self,
        models: Mapping[str, Model],
        judge: Callable[[str, str, Context], float] | None,
        journal: RouterJournal,
    ) -> None:
        self.models, self.judge, self.journal = dict(models), judge, journal
        for name, m in self.models.items():
            if name not in self.router.models:
                self.journal.add_model(name, m.price)

    @classmethod
    def open(
        cls,
        models: Mapping[str, Model],
        judge: Callable[[str, str, Context], float] | None,
        router: TinyDancerRouter | None,
        dim: int,
        store: str | os.PathLike[str] | None,
    ) -> Self:
        """With the router of a state directory, or in memory; ``router`` begins anew."""
        from sona.process_journal import RouterJournal
        from sona.routing import TinyDancerRouter

        if not models:
            raise ConfigError("models: expected at least one, got none")
        if router is not None and (missing := models.keys() - router.models.keys()):
            raise ConfigError(f"router: expected one that knows {sorted(missing)}")
        prices = {name: m.price for name, m in models.items()}
        return cls(models, judge, RouterJournal.open(router, lambda: TinyDancerRouter(prices, dim=dim), store))

    @property
    def router(self) -> TinyDancerRouter:
        """What chooses among the models."""
        return self.journal.router

    def process(self, engine: SonaEngine, question: str, x: npt.NDArray[np.float32], context: Context) -> Response:
        """Answer one question whose embedding is ``x``."""
        started = time.perf_counter()
        patterns = engine.find_patterns(engine.adapt(x, scope=context.scope), scope=context.scope)
        left = list(self.models)
        while True:
            decision = self.journal.route(x, left, context.user_id, context.scope, time.time())
            model = self.models[decision.model]
            called = time.perf_counter()
            try:
                said = model.call(question, context)
            except Exception as error:
                self.journal.feedback(decision.decision_id, 0.0, 0.0, None, True, time.time())
                left.remove(decision.model)
                if not left:
                    raise LearningError(f"every model failed; the last was {decision.model!r}: {error}") from error
                continue
            break
        seconds = time.perf_counter() - called
        answer = Answer(said) if isinstance(said, str) else said
        cost = model.price if answer.cost is None else answer.cost
        quality = None
        if self.judge is not None:
            quality = float(self.judge(question, answer.text, context))
            self.learn(decision.decision_id, quality, cost, 1000.0 * seconds)
            with engine.trace(x, scope=context.scope, user=context.user_id) as trace:
                trace.finish(quality=quality)
        whole = time.perf_counter() - started
        return Response(
            text=answer.text,
            confidence=decision.confidence,
            patterns_used=len(patterns),
            latency_us=1e6 * whole,
            model=decision.model,
            cost=cost,
            decision_id=decision.decision_id,
            quality=quality,
            overhead_us=1e6 * (whole - seconds),
        )

    def learn(self, decision_id: str, quality: float, cost: float | None, latency_ms: float | None) -> bool:
        """Hand an outcome to the router; when this returns, a killed process keeps it (if there is a state directory)."""
        return self.journal.feedback(decision_id, quality, cost, latency_ms, False, time.time())
