"""The corpus and the question set of the demo: complete, unique, no side effects, split as promised."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sona import stdlib_corpus, stdlib_questions
from sona.stdlib_corpus import build_corpus
from sona.stdlib_questions import load_questions


def test_corpus_names_are_unique_sorted_and_documented():
    corpus = build_corpus()
    assert len(corpus) > 4000
    assert list(corpus.names) == sorted(set(corpus.names))
    assert all(d.text and len(d.text) <= stdlib_corpus.MAX_CHARS for d in corpus.documents)
    assert {d.kind for d in corpus.documents} == {
        "module",
        "class",
        "function",
        "method",
        "property",
        "object",
    }


@pytest.mark.parametrize(
    "name",
    [
        "str.split",
        "str.maketrans",
        "dict.get",
        "list.sort",
        "os.path.getmtime",
        "random.choice",
        "json.loads",
        "open",
        "OSError",
        "socket.socket.recv",
        "asyncio.Queue",
        "collections.abc.Mapping.get",
        "xml.etree.ElementTree.parse",
    ],
)
def test_corpus_uses_the_name_that_users_write(name):
    assert name in build_corpus().names


@pytest.mark.parametrize("name", ["io.open", "IOError", "posixpath.join", "random.Random.choice", "_csv.reader", "this"])
def test_corpus_leaves_out_aliases_and_private_modules(name):
    assert name not in build_corpus().names


def test_corpus_says_what_it_left_out_and_why():
    skipped = build_corpus().skipped
    assert skipped["module: does something visible when imported"] == 2
    assert skipped["no docstring"] > 0
    assert all(count > 0 for count in skipped.values())


def test_corpus_is_the_same_in_every_run_and_imports_nothing_into_the_caller():
    script = (
        "import sys; from sona.stdlib_corpus import build_corpus as b; c = b(); b.cache_clear();"
        "assert b() == c;"
        "print({'ftplib', 'readline', 'curses', 'sqlite3', 'asyncio', 'wave'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert done.stderr == ""


def test_corpus_reports_what_the_child_said_when_it_fails(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('the disk is on fire')")
    monkeypatch.setattr(stdlib_corpus, "__file__", str(broken))
    build_corpus.cache_clear()
    try:
        with pytest.raises(ChildProcessError, match="status 1: the disk is on fire"):
            build_corpus()
    finally:
        build_corpus.cache_clear()


def test_questions_are_many_and_never_repeated():
    questions = load_questions()
    rows = questions.train + questions.test
    assert len(rows) >= 600
    assert questions.dropped == 0
    keys = [" ".join(q.question.casefold().rstrip("?").split()) for q in rows]
    assert len(set(keys)) == len(keys)
    assert all(len(set(q.answers)) == len(q.answers) for q in rows)
    topics = {q.topic for q in rows}
    assert len(rows) / len(topics) >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="some answers exist on Linux only")
def test_every_answer_is_in_the_corpus_of_this_interpreter():
    questions = load_questions()
    known = set(build_corpus().names)
    missing = {a for q in questions.train + questions.test for a in q.answers} - known
    assert missing == set()


def test_split_keeps_phrasings_apart_and_some_answers_unseen():
    questions = load_questions()
    train_topics = {q.topic for q in questions.train}
    train_answers = {a for q in questions.train for a in q.answers}
    seen = questions.seen()
    for q, is_seen in zip(questions.test, seen, strict=True):
        # Seen: the topic was asked before and an answer of it was clickable. Unseen: neither.
        assert (q.topic in train_topics) == is_seen
        assert bool(train_answers & set(q.answers)) == is_seen
    unseen_share = 1 - sum(seen) / len(seen)
    assert 0.25 <= unseen_share <= 0.5
    assert 0.55 <= len(questions.train) / (len(questions.train) + len(questions.test)) <= 0.75


def test_questions_lose_answers_that_the_corpus_lacks():
    questions = load_questions({"os.path.getmtime"})
    assert {a for q in questions.train + questions.test for a in q.answers} == {"os.path.getmtime"}
    whole = load_questions()
    lost = len(whole.train) + len(whole.test) - len(questions.train) - len(questions.test)
    assert questions.dropped == lost > 0


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"question": "x"}',
        '{"question": "x", "answers": [], "topic": "t", "split": "test"}',
        '{"question": "x", "answers": ["y"], "topic": "t", "split": "dev"}',
    ],
)
def test_questions_name_the_line_that_is_not_a_question(line):
    good = '{"question": "x", "answers": ["y"], "topic": "t", "split": "test"}'
    with pytest.raises(ValueError, match="line 2"):
        stdlib_questions._parse([good, line])
