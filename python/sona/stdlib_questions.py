"""The questions of ``sona demo``: what people ask about the standard library, with the right answers.

The data file holds one JSON object a line: ``question``, ``answers`` (qualified names, best first),
``topic`` and ``split``. The questions were written by hand, topic by topic, without looking at what any
embedder makes of them. The split is by question: most topics have phrasings on both sides, and some topics
are wholly in the test half, so that their answers are never clicked and harm to them can be measured.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from dataclasses import dataclass
from importlib import resources

__all__ = ["Question", "QuestionSet", "load_questions"]

_FILE = "data/stdlib_questions.jsonl"


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its right answers.

    Attributes
    ----------
    question
        What a user types.
    answers
        Qualified names of the documents that answer it, best first; never empty.
    topic
        Name shared by the phrasings of the same need.
    split
        ``"train"`` or ``"test"``.
    """

    question: str
    answers: tuple[str, ...]
    topic: str
    split: str


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """The questions of both halves.

    Attributes
    ----------
    train, test
        The two halves, in the order of the file.
    dropped
        Number of questions none of whose answers exists in the corpus (another platform); 0 without a corpus.
    """

    train: tuple[Question, ...]
    test: tuple[Question, ...]
    dropped: int

    def seen(self) -> tuple[bool, ...]:
        """Tell for each test question whether one of its answers is also an answer of a training question."""
        trained = {a for q in self.train for a in q.answers}
        return tuple(any(a in trained for a in q.answers) for q in self.test)


def load_questions(available: Container[str] | None = None) -> QuestionSet:
    """Read the question set that comes with the package.

    Parameters
    ----------
    available
        Names that exist in the corpus at hand. Answers outside it are taken out, and questions left without
        an answer are dropped and counted. ``None`` keeps everything.

    Returns
    -------
    QuestionSet
        More than 600 questions, about six in ten for training.

    Raises
    ------
    ValueError
        If a line of the data file is not a question; the message names the line.

    Examples
    --------
    >>> questions = load_questions()
    >>> len(questions.train) + len(questions.test) >= 600
    True
    >>> questions.test[0].answers[0]
    'os.path.getmtime'
    """
    text = resources.files("sona").joinpath(_FILE).read_text(encoding="utf-8")
    everything = _parse(text.splitlines())
    kept = []
    for q in everything:
        answers = q.answers if available is None else tuple(a for a in q.answers if a in available)
        if answers:
            kept.append(Question(q.question, answers, q.topic, q.split))
    return QuestionSet(
        train=tuple(q for q in kept if q.split == "train"),
        test=tuple(q for q in kept if q.split == "test"),
        dropped=len(everything) - len(kept),
    )


def _parse(lines: Iterable[str]) -> list[Question]:
    out = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            q = Question(row["question"], tuple(row["answers"]), row["topic"], row["split"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{_FILE}, line {number}: not a question ({error!r})") from error
        if q.split not in {"train", "test"} or not q.answers:
            raise ValueError(f"{_FILE}, line {number}: needs an answer and a split 'train' or 'test', got {q}")
        out.append(q)
    return out
