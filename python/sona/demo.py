"""``sona demo``: retrieval over the docstrings of the standard library that gets better from clicks.

Five streams of users ask hand-written questions, see the ten best documents and click what helps. Held-out
questions are judged before, on the way, and after; once more with a share of wrong clicks; and after going
back to the untrained version.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sona.config import SonaConfig
from sona.demo_result import DemoResult, Row, table
from sona.demo_run import CANDIDATES, METRICS, SHOWN, Asked, Library, Run, Scores, judge, run_stream
from sona.embed import Embedder, MiniLmEmbedder, TfidfSvdEmbedder
from sona.engine import SonaEngine
from sona.evaluate import bootstrap, paired_bootstrap
from sona.progress import Progress
from sona.stdlib_corpus import Corpus, Document, build_corpus
from sona.stdlib_questions import Question, QuestionSet, load_questions

__all__ = ["DemoResult", "add_arguments", "main", "run", "run_demo"]

_CHECKPOINTS = (0.1, 0.25, 0.5, 0.75)
_NOISE = 0.2


def _texts(documents: Sequence[Document], encoder: str) -> list[str]:
    # A sentence encoder reads sentences; the whole page would cost it five times as much and help no one.
    return [d.indexed if encoder == "tfidf" else f"{d.name}: {d.summary}" for d in documents]


def _asked(questions: Sequence[Question], embedder: Embedder, names: Sequence[str]) -> Asked:
    place = {name: i for i, name in enumerate(names)}
    return Asked(
        embedder.embed([q.question for q in questions]),
        [frozenset(place[a] for a in q.answers) for q in questions],
    )


def _embed_documents(texts: Sequence[str], encoder: str, *, show: bool) -> tuple[Embedder, NDArray[np.float32]]:
    if encoder == "tfidf":
        with Progress("fitting the embedder", 2, show=show) as progress:
            fitted = TfidfSvdEmbedder.fit(texts)
            progress.advance()
            return fitted, fitted.embed(texts)
    embedder = MiniLmEmbedder(threads=2)
    parts = []
    with Progress("embedding documents", len(texts), show=show) as progress:
        for start in range(0, len(texts), 64):
            parts.append(embedder.embed(texts[start : start + 64]))
            progress.advance(len(parts[-1]))
    return embedder, np.concatenate(parts)


def _rows(frozen: Scores, runs: Sequence[Run], seen: NDArray[np.bool_], note: str, draws: int) -> list[Row]:
    learned = np.stack([run.curve[-1].figures for run in runs])
    rows = []
    for group, mask in (("all", np.ones_like(seen)), ("seen", seen), ("unseen", ~seen)):
        for column, metric in enumerate(METRICS):
            before, after = frozen.figures[mask, column], learned[:, mask, column]
            rows.append(
                Row(
                    group=group + note,
                    metric=metric,
                    questions=int(mask.sum()),
                    frozen=bootstrap(before, draws=draws),
                    learned=bootstrap(after, draws=draws),
                    lift=paired_bootstrap(after, before, draws=draws),
                )
            )
    return rows


def run_demo(
    *,
    encoder: str = "tfidf",
    seed: int = 0,
    seeds: int = 5,
    noise: float = _NOISE,
    harm_budget: float = 0.05,
    draws: int = 2000,
    checkpoints: Sequence[float] = _CHECKPOINTS,
    corpus: Corpus | None = None,
    questions: QuestionSet | None = None,
    show: bool = False,
) -> DemoResult:
    """Run the demo and return what it found.

    Parameters
    ----------
    encoder
        ``"tfidf"`` (fitted here, numpy only) or ``"minilm"`` (needs the extra of that name).
    seed, seeds
        First seed, and number of streams; stream ``i`` has seed ``seed + i``.
    noise
        Share of wrong clicks in the second set of streams, in ``[0, 1]``.
    harm_budget
        Greatest accepted loss of nDCG@10 on answers that were never clickable.
    draws
        Resamples of each bootstrap.
    checkpoints
        Shares of the stream after which held-out questions are judged for the learning curve.
    corpus, questions
        Documents and questions. Default: the standard library, and the questions that come with the package.
    show
        Show progress on stderr if it is a terminal.

    Returns
    -------
    DemoResult

    Raises
    ------
    ValueError
        If ``encoder`` is unknown or ``seeds`` is below 1.
    ImportError
        If the encoder's extra is missing.

    Notes
    -----
    Nothing is tuned on the held-out questions: the engine runs with its defaults.
    """
    if encoder not in {"tfidf", "minilm"}:
        raise ValueError(f"encoder: expected 'tfidf' or 'minilm', got {encoder!r}")
    if seeds < 1:
        raise ValueError(f"seeds: expected at least 1, got {seeds}")
    begin = time.perf_counter()
    with Progress("reading the documentation", 2, show=show) as progress:
        corpus = corpus or build_corpus()
        progress.advance()
        questions = questions or load_questions(frozenset(corpus.names))
    embedder, vectors = _embed_documents(_texts(corpus.documents, encoder), encoder, show=show)
    library = Library(corpus.names, vectors)
    train = _asked(questions.train, embedder, library.names)
    test = _asked(questions.test, embedder, library.names)
    with SonaEngine(SonaConfig(hidden_dim=embedder.dim)) as untrained:
        frozen = judge(untrained, library, test)
    prepared = time.perf_counter() - begin
    with Progress("requests", 2 * seeds * len(train), show=show) as progress:

        def streams(share: float) -> tuple[Run, ...]:
            return tuple(
                run_stream(
                    library,
                    train,
                    test,
                    seed=number,
                    noise=share,
                    checkpoints=checkpoints,
                    tick=progress.advance,
                )
                for number in range(seed, seed + seeds)
            )

        clean, noisy = streams(0.0), streams(noise)
    seen = np.array(questions.seen(), dtype=bool)
    rows = _rows(frozen, clean, seen, "", draws) + _rows(frozen, noisy, seen, f", {noise:.0%} wrong", draws)
    return DemoResult(
        facts={
            "documents": len(corpus),
            "python": corpus.python,
            "train_questions": len(train),
            "test_questions": len(test),
            "questions_dropped": questions.dropped,
            "encoder": encoder,
            "dim": embedder.dim,
            "fingerprint": embedder.fingerprint,
            "seeds": list(range(seed, seed + seeds)),
            "noise": noise,
            "shown": SHOWN,
            "candidates": CANDIDATES,
            "clicks": [run.clicks[-1] for run in clean],
            "seconds": {"preparation": prepared, "total": time.perf_counter() - begin},
        },
        rows=tuple(rows),
        clean=clean,
        noisy=noisy,
        frozen=frozen,
        seen=seen,
        rollback_equal=all(run.rolled_back.raw == frozen.raw for run in clean + noisy),
        harm_budget=harm_budget,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``sona demo`` to a parser."""
    parser.add_argument("--encoder", choices=("tfidf", "minilm"), default="tfidf", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="first of the seeds (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one stream instead of five, no learning curve")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("sona-demo.png"),
        metavar="PATH",
        help="PNG to write (default: %(default)s)",
    )
    parser.add_argument("--no-plot", action="store_true", help="write no PNG")
    parser.add_argument(
        "--harm-budget",
        type=float,
        default=0.05,
        metavar="LOSS",
        help="greatest accepted loss of nDCG@10 on answers that were never clickable (default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Run with parsed options; returns the exit status.

    Returns
    -------
    int
        0 if every check holds; 1 if the lift's interval touches zero, the loss on unseen answers exceeds
        the budget, or a rolled-back engine differs from an untrained one.
    """
    if not options.no_plot and not options.plot.absolute().parent.is_dir():
        raise FileNotFoundError(f"--plot: there is no folder {options.plot.absolute().parent}")
    size: dict[str, Any] = {"seeds": 1, "checkpoints": ()} if options.quick else {}
    result = run_demo(
        encoder=options.encoder, seed=options.seed, harm_budget=options.harm_budget, show=not options.json, **size
    )
    report = result.to_dict()
    if not options.json:
        print(table(result), flush=True)
    if options.no_plot:
        note = ""
    else:
        try:
            from sona.demo_plot import save_plot

            report["plot"] = str(save_plot(result, options.plot).resolve())
            note = f"plot: {report['plot']}"
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "matplotlib":
                raise
            note = "no plot: matplotlib is missing (pip install 'sona[demo]')"
    if options.json:
        print(json.dumps(report, indent=2))
    elif note:
        print(note)
    return 0 if all(result.checks.values()) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``python -m sona.demo``; ``sona demo`` calls `run` with the same options."""
    parser = argparse.ArgumentParser(prog="sona demo", description=__doc__)
    add_arguments(parser)
    return run(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
