"""The demo: what it measures, refuses and fails at, on a slice of the corpus with the real engine."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from sona import demo
from sona.config import SonaConfig
from sona.demo_result import DemoResult, table
from sona.demo_run import Asked, Library, judge, run_stream
from sona.engine import SonaEngine
from sona.evaluate import Interval
from sona.progress import Progress
from sona.stdlib_corpus import Corpus, build_corpus
from sona.stdlib_questions import QuestionSet, load_questions


@pytest.fixture(scope="module")
def small() -> tuple[Corpus, QuestionSet]:
    """Two hundred topics' questions and the documents that answer them, among others."""
    whole, questions = build_corpus(), load_questions()
    topics = set(sorted({q.topic for q in questions.test})[::2])
    chosen = QuestionSet(
        tuple(q for q in questions.train if q.topic in topics),
        tuple(q for q in questions.test if q.topic in topics),
        0,
    )
    wanted = {a for q in chosen.train + chosen.test for a in q.answers}
    documents = tuple(d for i, d in enumerate(whole.documents) if d.name in wanted or i % 8 == 0)
    names = {d.name for d in documents}
    assert wanted <= names
    return Corpus(documents, whole.skipped, whole.python), chosen


@pytest.fixture(scope="module")
def result(small) -> DemoResult:
    corpus, questions = small
    return demo.run_demo(corpus=corpus, questions=questions, seeds=2, checkpoints=(0.3,), draws=300)


@pytest.fixture(scope="module")
def toy() -> tuple[Library, Asked, Asked]:
    rng = np.random.default_rng(0)
    docs = rng.normal(size=(300, 32)).astype(np.float32)
    docs /= np.linalg.norm(docs, axis=1, keepdims=True)
    library = Library([f"doc-{i}" for i in range(300)], docs)
    # Users mean document i and say something off in a direction that all share: that can be learned.
    slant = rng.normal(size=32) * 0.25

    def ask(items: np.ndarray) -> Asked:
        said = docs[items] + slant + rng.normal(size=(len(items), 32)) * 0.12
        said /= np.linalg.norm(said, axis=1, keepdims=True)
        return Asked(said.astype(np.float32), [frozenset({int(i)}) for i in items])

    return library, ask(np.arange(300)), ask(np.arange(0, 300, 3))


def test_demo_learns_and_every_check_holds(result):
    assert result.checks == {
        "lift above zero": True,
        "harm within budget": True,
        "rollback equals frozen": True,
    }
    assert result.row("seen", "hit@1").lift.low > 0.03
    assert result.row("all, 20% wrong", "nDCG@10").lift.mean > 0
    assert result.row("unseen", "nDCG@10").questions == int((~result.seen).sum()) > 0
    for run in result.clean + result.noisy:
        assert run.rolled_back.raw == result.frozen.raw
        assert run.curve[-1].raw != result.frozen.raw
        assert list(run.clicks) == sorted(run.clicks)
        assert run.cases == run.clicks[-1] > 0


def test_wrong_clicks_are_events_too_and_cost_lift(result):
    for clean, noisy in zip(result.clean, result.noisy, strict=True):
        assert noisy.clicks[-1] > clean.clicks[-1]
    assert result.row("seen, 20% wrong", "nDCG@10").lift.mean < result.row("seen", "nDCG@10").lift.mean


def test_demo_is_repeatable_and_seeds_differ(small, result):
    corpus, questions = small
    again = demo.run_demo(corpus=corpus, questions=questions, seeds=1, checkpoints=(), draws=100)
    assert again.frozen.raw == result.frozen.raw
    assert again.clean[0].curve[-1].raw == result.clean[0].curve[-1].raw
    assert again.noisy[0].curve[-1].raw == result.noisy[0].curve[-1].raw
    assert result.clean[1].curve[-1].raw != result.clean[0].curve[-1].raw


def test_json_holds_the_table_and_survives_a_round_trip(result):
    values = json.loads(json.dumps(result.to_dict()))
    row = result.row("seen", "MRR")
    found = [r for r in values["table"] if (r["group"], r["metric"]) == ("seen", "MRR")]
    assert found == [
        {
            "group": "seen",
            "metric": "MRR",
            "questions": row.questions,
            "frozen": [row.frozen.mean, row.frozen.low, row.frozen.high],
            "learned": [row.learned.mean, row.learned.low, row.learned.high],
            "lift": [row.lift.mean, row.lift.low, row.lift.high],
        }
    ]
    assert set(values["latency_us"]) == {"adapt", "rank", "feedback"}
    assert values["state"]["disk_bytes"] > 0
    with pytest.raises(KeyError, match="no row 'all', 'MAP'"):
        result.row("all", "MAP")


def test_table_prints_every_row_and_every_check(result):
    text = table(result)
    assert text.count("nDCG@10  ") >= 6
    assert text.count("\nok  ") == 3
    assert f"{result.row('all', 'hit@1').lift.mean:+.3f}" in text
    assert max(len(line) for line in text.splitlines()) <= 110


def _with_lift(result: DemoResult, group: str, lift: Interval) -> DemoResult:
    rows = tuple(replace(r, lift=lift) if (r.group, r.metric) == (group, "nDCG@10") else r for r in result.rows)
    return replace(result, rows=rows)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (lambda r: r, 0),
        (lambda r: _with_lift(r, "all", Interval(0.02, 0.0, 0.04)), 1),
        (lambda r: _with_lift(r, "all", Interval(0.02, float("nan"), 0.04)), 1),
        (lambda r: _with_lift(r, "unseen", Interval(-0.06, -0.1, 0.0)), 1),
        (lambda r: replace(r, rollback_equal=False), 1),
    ],
)
def test_exit_status_tells_whether_the_promise_held(monkeypatch, capsys, result, change, status):
    monkeypatch.setattr(demo, "run_demo", lambda **_: change(result))
    assert demo.main(["--no-plot"]) == status
    assert capsys.readouterr().out.count("FAIL") == status


def test_options_reach_the_run(monkeypatch, capsys, result):
    calls = []
    monkeypatch.setattr(demo, "run_demo", lambda **options: calls.append(options) or result)
    demo.main(["--no-plot", "--json", "--quick", "--seed", "7", "--encoder", "minilm", "--harm-budget", "0.1"])
    assert calls == [{"encoder": "minilm", "seed": 7, "harm_budget": 0.1, "show": False, "seeds": 1, "checkpoints": ()}]
    assert json.loads(capsys.readouterr().out)["checks"]["rollback equals frozen"] is True


def test_plot_is_written_and_its_path_printed(monkeypatch, capsys, tmp_path, result):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(demo, "run_demo", lambda **_: result)
    path = tmp_path / "picture.png"
    demo.main(["--plot", str(path)])
    assert f"plot: {path}" in capsys.readouterr().out
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    assert len(data) > 20_000


def test_without_matplotlib_the_table_still_comes(monkeypatch, capsys, tmp_path, result):
    monkeypatch.setattr(demo, "run_demo", lambda **_: result)
    for name in [n for n in sys.modules if n.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert demo.main(["--plot", str(tmp_path / "x.png")]) == 0
    out = capsys.readouterr().out
    assert "pip install 'sona[demo]'" in out
    assert "nDCG@10" in out


def test_a_plot_without_a_folder_is_refused_before_the_work(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "run_demo", lambda **_: pytest.fail("the work was done first"))
    with pytest.raises(FileNotFoundError, match="--plot: there is no folder"):
        demo.main(["--plot", str(tmp_path / "missing" / "x.png")])


def test_demo_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="'tfidf' or 'minilm', got 'bert'"):
        demo.run_demo(encoder="bert")
    with pytest.raises(ValueError, match="seeds: expected at least 1, got 0"):
        demo.run_demo(seeds=0)


def test_untrained_engine_answers_like_plain_search(toy):
    library, _, test = toy
    with SonaEngine(SonaConfig(hidden_dim=32)) as engine:
        scores = judge(engine, library, test)
    plain = test.vectors @ library.vectors.T
    ranks = np.array([(row >= row[next(iter(r))]).sum() for row, r in zip(plain, test.relevant, strict=True)])
    np.testing.assert_allclose(scores.figures[:, 0], ranks == 1)
    np.testing.assert_allclose(scores.figures[:, 1], np.where(ranks <= 100, 1 / ranks, 0))


def test_stream_learns_a_shared_slant_and_forgets_it_on_rollback(toy):
    library, train, test = toy
    with SonaEngine(SonaConfig(hidden_dim=32)) as engine:
        frozen = judge(engine, library, test)
    run = run_stream(library, train, test, seed=1, checkpoints=(0.5,))
    assert run.curve[-1].figures[:, 1].mean() > frozen.figures[:, 1].mean() + 0.02
    assert run.rolled_back.raw == frozen.raw
    assert len(run.curve) == len(run.clicks) == 2
    assert len(run.latency_us["rank"]) == len(train)
    assert len(run.latency_us["feedback"]) == run.clicks[-1]


def test_judging_ranks_nan_worst_and_counts_what_is_not_found(toy):
    library, _, test = toy

    class Broken:
        def adapt(self, x):
            return x

        def rank(self, query, *, ids, vectors, k):
            return SimpleNamespace(ids=ids, scores=np.full(len(ids), np.nan, dtype=np.float32))

    figures = judge(Broken(), library, test).figures  # type: ignore[arg-type]
    assert not figures[:, [0, 2]].any()
    assert figures[:, 1].max() <= 0.01


def test_progress_is_silent_where_nobody_looks(capsys):
    with Progress("requests", 5) as progress:
        progress.advance(5)
    assert progress.done == 5
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("with_tqdm", [True, False])
def test_progress_draws_on_a_terminal(monkeypatch, capsys, with_tqdm):
    if with_tqdm:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("requests", 4) as progress:
        progress.advance(2)
    shown = capsys.readouterr().err
    assert "requests" in shown
    assert with_tqdm or "50%" in shown
