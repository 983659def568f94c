"""The engine: adapt, rank, feedback; scopes, modes, versions, durable state."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sona import _core, _sealed
from sona._core import Decision
from sona._forking import ENGINES
from sona._trace import Trace
from sona.background import BackgroundThread, LearningResult, ScopeLearning
from sona.config import SonaConfig
from sona.exceptions import ConfigError, StoreError
from sona.report import Explanation, Promotion, Receipt, Report

if TYPE_CHECKING:
    from sona.deep import DeepLearningResult
    from sona.embed import Embedder
    from sona.patterns import PatternMatch
    from sona.process import Context, Model, Processor, Response
    from sona.process_journal import RouterJournal
    from sona.routing import TinyDancerRouter

__all__ = ["Decision", "SonaEngine", "Trace"]

#: Inputs that an embedder is recognised by when a state is opened again.
CANARIES = ("the quick brown fox", "How do I reset my password?", "def f(x): return x + 1", "42", "größer, schöner")


class SonaEngine(_core.Engine):
    """Learns from outcomes, inside this process.

    ``adapt`` moves a query vector, ``rank`` re-scores candidates, ``feedback`` tells how it went and changes the next answer.
    An untrained engine is the identity bit for bit. Safe to share between threads: readers take no lock, writers are
    serialised per scope. After ``fork`` a child continues in an event log of its own.

    Parameters
    ----------
    config : SonaConfig, optional
        Settings; ``SonaConfig()`` if omitted.
    store : path, optional
        State directory, created if needed. Every acknowledged feedback survives a killed process. None: memory only.
    embedder : Embedder, optional
        Turns text into vectors, so that ``adapt`` and ``rank`` also take a ``str``. State written under another embedder is
        refused: by its fingerprint, and by the vectors of five fixed strings, which are embedded at every opening.

    models : dict of str to Model, optional
        Language models (or anything that answers) for ``process``, by name.
    judge : callable, optional
        ``judge(question, text, context)`` gives the quality of an answer in [0, 1]; without one, tell it with ``outcome``.
    router : TinyDancerRouter, optional
        Chooses among the models; one with default settings if omitted. Its state is kept in the state directory.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> docs = rng.normal(size=(5, 8)).astype("float32")
    >>> eng = SonaEngine(SonaConfig(hidden_dim=8))
    >>> query = docs[0] + docs[1]
    >>> d = eng.rank(query, ids=["a", "b", "c", "d", "e"], vectors=docs, k=3)
    >>> last = d.ids[-1]
    >>> eng.feedback(d.id, chosen=last, source="click")
    True
    >>> eng.rank(query, ids=["a", "b", "c", "d", "e"], vectors=docs, k=3).ids.index(last) < 2
    True
    """

    config: SonaConfig
    embedder: Embedder | None
    _background: BackgroundThread
    _processor: Processor | None
    _journal: RouterJournal | None
    _store: str | None

    def __new__(
        cls,
        config: SonaConfig | None = None,
        *,
        store: str | os.PathLike[str] | None = None,
        embedder: Embedder | None = None,
        models: Mapping[str, Model] | None = None,
        judge: Callable[[str, str, Context], float] | None = None,
        router: TinyDancerRouter | None = None,
    ) -> Self:
        """Open or create the engine; see the class."""
        config = _checked(config, embedder)
        self = super().__new__(cls, _settings(config, embedder), None if store is None else os.fspath(store), embedder)
        return self._begin(config, embedder, store)._serve(models, judge, router)

    def _serve(
        self,
        models: Mapping[str, Model] | None,
        judge: Callable[[str, str, Context], float] | None,
        router: TinyDancerRouter | None = None,
    ) -> Self:
        """Take on models; the router is the one that was saved with the engine, or that of its directory."""
        if models is None:
            return self
        from sona.process import Processor

        try:
            if self._journal is None:
                self._processor = Processor.open(models, judge, router, self.config.hidden_dim, self._store)
            else:
                self._processor = Processor(models, judge, self._journal)
        except BaseException:
            self.close()
            raise
        self._journal = self._processor.journal
        return self

    def _begin(self, config: SonaConfig, embedder: Embedder | None, store: str | os.PathLike[str] | None = None) -> Self:
        if embedder is not None:
            try:
                self._set_encoder(str(embedder.fingerprint), list(zip(CANARIES, embedder.embed(CANARIES), strict=True)))
            except BaseException:
                super().close()
                raise
        self.config = config
        self.embedder = embedder
        self._processor = self._journal = None
        self._store = None if store is None else os.fspath(store)
        self._background = BackgroundThread(self, config.background_interval_ms / 1000.0)
        ENGINES.add(self)
        return self

    @classmethod
    def from_bytes(
        cls,
        data: bytes,
        *,
        embedder: Embedder | None = None,
        models: Mapping[str, Model] | None = None,
        judge: Callable[[str, str, Context], float] | None = None,
    ) -> Self:
        """Engine in memory from what ``to_bytes`` gave; ``models`` and ``judge`` are those of the class.

        Reading it back and going on equals never having stopped, bit for bit, also for the router of ``process``. Damaged or
        foreign bytes raise ``CorruptStateError``.
        """
        data, journal = bytes(data), None
        if _sealed.packed(data):
            from sona.process_journal import RouterJournal

            data, saved = _sealed.unpack("engine", data, 2)
            journal = RouterJournal.from_bytes(saved)
        self = super().__new__(cls, data, None, embedder)._resumed(embedder)
        self._journal = journal
        return self._serve(models, judge)

    def to_bytes(self) -> bytes:
        """Everything, also what waits for feedback, and the router of ``process`` with what forgetting needs."""
        state = super().to_bytes()
        return state if self._journal is None else _sealed.pack([state, self._journal.to_bytes()])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``to_bytes`` to a file, atomically."""
        if self._journal is None:
            return super().save(os.fspath(path))
        from sona.process_log import Files

        where = Path(path)
        try:
            Files(where.parent).write(where.name, self.to_bytes())
        except OSError as error:
            raise StoreError(error.errno, error.strerror, str(where)) from None

    def _resumed(self, embedder: Embedder | None) -> Self:
        settings = self._settings()
        fingerprint = settings.pop("fingerprint")
        config = SonaConfig.from_dict(settings)
        if embedder is not None and embedder.fingerprint != fingerprint:
            raise ConfigError(
                f"embedder: expected the one that wrote this state ({fingerprint!r}), got {embedder.fingerprint!r}"
            )
        return self._begin(config, embedder)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        embedder: Embedder | None = None,
        models: Mapping[str, Model] | None = None,
        judge: Callable[[str, str, Context], float] | None = None,
    ) -> Self:
        """Load what ``save`` wrote (one file), or open a state directory with the settings it was made with.

        ``models`` and ``judge`` are those of the class; the router that was saved, or that of the directory, chooses.

        Raises
        ------
        CorruptStateError
            If the bytes are damaged, foreign or of another version.
        """
        where = os.fspath(path)
        if os.path.isdir(where):
            settings = _core.directory_settings(where)
            fingerprint = settings.pop("fingerprint")
            if embedder is not None and embedder.fingerprint != fingerprint:
                raise ConfigError(
                    f"embedder: expected the one that wrote this state ({fingerprint!r}), got {embedder.fingerprint!r}"
                )
            config = SonaConfig.from_dict(settings)
            self = super().__new__(cls, {**_settings(config, None), "fingerprint": fingerprint}, where, embedder)
            return self._begin(config, embedder, where)._serve(models, judge)
        with open(where, "rb") as f:
            if _sealed.packed(f.read(_sealed.HEAD)):
                f.seek(0)
                return cls.from_bytes(f.read(), embedder=embedder, models=models, judge=judge)
        return super().__new__(cls, None, where, embedder)._resumed(embedder)._serve(models, judge)

    def trace(self, x: Any, *, scope: str = "default", source: str = "", user: str = "", now: float | None = None) -> Trace:
        """Record any other kind of request: steps with rewards and a final quality; trains the per-request adapter.

        >>> import numpy as np
        >>> eng = SonaEngine(SonaConfig(hidden_dim=4))
        >>> x, good = np.eye(4, dtype="float32")[:2]
        >>> with eng.trace(x) as t:
        ...     t.step(good, [1.0], reward=0.9)
        ...     t.finish(quality=0.9)
        True
        >>> bool(eng.adapt(x) @ good > x @ good)
        True
        """
        return Trace(self, x, scope, source, user, now)

    def process(self, question: str, context: Context | None = None, *, embedding: Any = None) -> Response:
        """Answer a question: embed, adapt, recall, route, call the model, judge, learn.

        A model that raises is left out and the next best is asked; its circuit opens after a few failures in a row. With a
        judge the outcome is learned at once, otherwise when ``outcome`` tells it. ``embedding``, a (d,) array, stands in for
        the embedder.

        Raises
        ------
        LearningError
            If every model failed.

        Examples
        --------
        >>> from sona.process import Model
        >>> models = {"small": Model(lambda q, c: "four", price=1.0), "big": Model(lambda q, c: "4, surely", price=9.0)}
        >>> eng = SonaEngine(SonaConfig(hidden_dim=2), models=models, judge=lambda q, text, c: float("4" in text))
        >>> r = eng.process("2 + 2?", embedding=[1.0, 0.0])
        >>> r.model, r.text, r.quality, r.cost
        ('big', '4, surely', 1.0, 9.0)
        """
        from sona.process import Context

        if self._processor is None:
            raise ConfigError("models: expected SonaEngine(models={...}), got none")
        if embedding is None:
            if self.embedder is None:
                raise ConfigError("embedder: expected one, or embedding=…, got neither")
            embedding = self.embedder.embed([question])[0]
        x = _core.frozen_vector("embedding", embedding)
        return self._processor.process(self, question, x, Context() if context is None else context)

    def outcome(self, decision_id: str, quality: float, *, cost: float | None = None, latency_ms: float | None = None) -> bool:
        """Tell how good the answer of ``process`` was, in [0, 1], at any later time; True if it was learned."""
        if self._processor is None:
            raise ConfigError("models: expected SonaEngine(models={...}), got none")
        return self._processor.learn(decision_id, quality, cost, latency_ms)

    @property
    def router(self) -> TinyDancerRouter | None:
        """What chooses among the models; None without models, now or when the engine was saved."""
        return None if self._journal is None else self._journal.router

    def background_learn(
        self, *, scope: str | None = None, deadline_s: float | None = None, now: float | None = None
    ) -> LearningResult:
        """Run one background cycle on this thread: patterns from the remembered cases, the slow adapter from their clicks.

        In every scope, or in one. The slow adapter is published only with a sure gain on held-out clicks. Serving goes on
        meanwhile. Past ``deadline_s`` no scope and no training step is begun, and the next call begins with the scope that this
        one did not reach. ``now`` is the time that patterns are stamped with (seconds; the clock if omitted). Cost: about 10 ms
        per 1,000 cases for the patterns, up to 20 passes over at most 2,048 clicks for the adapter.
        """
        return LearningResult.of(tuple(ScopeLearning(**s) for s in self._background_learn(scope, deadline_s, now)))

    def deep_learn(
        self,
        *,
        dreams: int = 50,
        phi_threshold: float = 0.3,
        deadline_s: float = 600.0,
        seed: int = 0,
        now: float | None = None,
    ) -> DeepLearningResult:
        """Run one deep cycle on this thread: dreams over the graph of chosen items, in every scope.

        It suggests links between items and changes nothing: on held-out links dreams did not beat simpler rules on most
        graphs, so nothing acts on them by default. What ``now`` is for and what a dream costs: ``sona.loops.DeepLoop``.

        >>> SonaEngine(SonaConfig(hidden_dim=4)).deep_learn().status
        'empty'
        """
        from sona.deep import deep_learn

        return deep_learn(self, dreams=dreams, phi_threshold=phi_threshold, deadline_s=deadline_s, seed=seed, now=now)

    def find_patterns(self, x: Any, k: int = 5, *, scope: str = "default") -> list[PatternMatch]:
        """What worked for requests like this: the nearest patterns of the last background cycle, best first.

        Empty before the first cycle. Reading does not count as an access. O(patterns · d).
        """
        from sona.patterns import LearnedPattern, PatternMatch, Verdict

        out = []
        for values, similarity in self._find_patterns(x, k, scope=scope):
            values["verdict"] = Verdict[values["verdict"]]
            out.append(PatternMatch(LearnedPattern(**values), similarity))
        return out

    def start(self) -> None:
        """Start the background thread: one cycle every ``background_interval_ms``. No thread runs before this."""
        if self.closed:
            raise RuntimeError("the engine is closed")
        self._background.start()

    def pause(self) -> None:
        """Stop the background thread after the cycle in progress; ``start`` goes on."""
        self._background.stop()

    def close(self) -> None:
        """Stop the background thread, snapshot, flush and give up the files. Calling it again does nothing."""
        self._background.stop()
        if self._journal is not None:
            self._journal.close()
        super().close()

    def explain(self, decision_id: str | Decision) -> Explanation:
        """Base and learned parts of each shown score, and the remembered cases behind them, under the live state."""
        return Explanation.from_dict(self._explain(decision_id))

    def report(self) -> Report:
        """Lift with its interval, seen and unseen apart, measured on every feedback before it was learned from."""
        return Report.from_dict(self._report(), self.metrics())

    def promote(self) -> Promotion:
        """Switch the mode to "on" if the evidence allows it; the answer says why or why not.

        At least 50 scored feedbacks, a lift whose 95 % interval is above zero, and no loss beyond ``harm_budget`` where the
        chosen items had no feedback before, nor on the anchors.
        """
        return Promotion(**self._promote())

    def forget(self, *, user: str) -> Receipt:
        """Remove every trace of a user: their decisions, their feedback, and what was learned from it.

        The learned state is rebuilt from the remaining events and snapshots that knew the user are deleted. Cost: one pass
        over the event log. ``receipt.alive`` names writers of other living processes that share the directory and must call
        ``forget`` themselves. The router of ``process`` is rebuilt too, from what it was when the engine was opened and the
        remaining decisions; only what was spent stays spent. Routers of writers that ended are treated as well, also by an
        engine without models.
        """
        from sona.process_journal import forget_in

        receipt = Receipt(**self._forget(user=user))
        if self._journal is not None:
            removed = self._journal.forget(user)
        else:
            removed = 0 if self._store is None else forget_in(self._store, user)
        return replace(receipt, router_events=removed)

    def purge(self, *, source: str) -> Receipt:
        """Remove all feedback of one source and what was learned from it; decisions stay."""
        return Receipt(**self._purge(source=source))

    def set_encoder(self, name: str, canaries: Mapping[str, Any]) -> None:
        """Name the encoder that the vectors come from, with a few inputs and the vectors it makes of them.

        The first call notes them in the state; every later one must agree: the same name, and vectors of cosine 0.995 or more
        for the inputs that are known. An engine with an ``embedder`` does this by itself at every opening.

        Raises
        ------
        ConfigError
            If another encoder made the state. Open it with that one, or begin a new state.

        Examples
        --------
        >>> eng = SonaEngine(SonaConfig(hidden_dim=2))
        >>> eng.set_encoder("mini-v1", {"hello": [1.0, 0.0]})
        >>> eng.set_encoder("mini-v1", {"hello": [0.0, 1.0]})
        Traceback (most recent call last):
        ...
        sona.exceptions.ConfigError: encoder: ...
        """
        self._set_encoder(name, list(canaries.items()))

    def export_peft(self, path: str | os.PathLike[str], *, scope: str = "default", module: str = "query_adapter") -> None:
        """Write the adapter of a scope as a Hugging Face PEFT directory; see `sona.lora.load_peft`.

        The slow adapter with the fast one merged in, exactly: their ranks add up. It maps the unit query x to
        x + (α/r)·B·A·x. What the remembered cases add is not in it.

        Raises
        ------
        LearningError
            If the scope has no adapter yet.
        """
        from sona.lora import export_peft

        a, b, alpha = self._adapter(scope)
        export_peft(os.fspath(path), {module: (a, b)}, alpha=alpha)

    def export_dataset(
        self,
        path: str | os.PathLike[str],
        *,
        queries: Mapping[str, str] | None = None,
        items: Mapping[Any, str] | None = None,
        include_users: bool = False,
    ) -> int:
        """Write preference pairs (chosen over shown-and-skipped) as JSON lines; returns the number of rows.

        Each row: decision, scope, query (the vector), chosen and rejected (ids), weight (the reward), propensity (probability
        of the chosen item's place; null if it was not shown), source. No users unless ``include_users``.

        The engine keeps vectors, not text. With ``queries`` (decision ids to prompts) and ``items`` (item ids to texts), both
        or neither, rows hold prompt, chosen, rejected and weight as text instead; what is not in them is left out.
        O(event log).
        """
        from sona._export import write_preferences

        return write_preferences(path, self._preferences(), queries, items, include_users)

    def __enter__(self) -> Self:
        """Use as a context manager: leaving closes the engine."""
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None) -> None:
        """Close the engine."""
        self.close()

    def __repr__(self) -> str:
        """Settings and size in one line."""
        m = self.metrics()
        return (
            f"SonaEngine(hidden_dim={self.config.hidden_dim}, mode={self.mode!r}, scopes={m['scopes']}, "
            f"cases={m['cases']}, version={self.version})"
        )


def _checked(config: SonaConfig | None, embedder: Embedder | None) -> SonaConfig:
    if embedder is not None and not all(hasattr(embedder, name) for name in ("dim", "fingerprint", "embed")):
        raise TypeError(f"embedder: expected dim, fingerprint and embed (sona.embed.Embedder), got {type(embedder).__name__}")
    if config is None:
        config = SonaConfig() if embedder is None else SonaConfig(hidden_dim=embedder.dim)
    if not isinstance(config, SonaConfig):
        raise ConfigError(f"config: expected a SonaConfig, got {type(config).__name__}")
    if embedder is not None and embedder.dim != config.hidden_dim:
        raise ConfigError(f"embedder: expected dimension {config.hidden_dim} (hidden_dim), got {embedder.dim}")
    return config


def _settings(config: SonaConfig, embedder: Embedder | None) -> dict[str, Any]:
    settings = config.to_dict()
    settings["fingerprint"] = "" if embedder is None else str(embedder.fingerprint)
    settings["source_caps"] = dict(config.source_caps)
    settings["source_trust"] = dict(config.source_trust)
    return settings
