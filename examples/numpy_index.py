"""A search over documents held in one numpy array, made to learn from clicks.

The documents are the docstrings of Python's standard library, the questions were written by people. Nothing is
re-indexed: the engine moves the query, re-scores what the index returned, and is told what was clicked.
"""

import numpy as np

from sona import SonaConfig, SonaEngine
from sona.embed import TfidfSvdEmbedder
from sona.stdlib_corpus import build_corpus
from sona.stdlib_questions import load_questions

corpus = build_corpus()
names = list(corpus.names)
embedder = TfidfSvdEmbedder.fit([d.indexed for d in corpus.documents], dim=256)
index = embedder.embed([d.indexed for d in corpus.documents])  # (n, 256) unit vectors
questions = load_questions(frozenset(names))
engine = SonaEngine(SonaConfig(hidden_dim=256), embedder=embedder)


def search(query, k=50):
    """Positions of the k nearest documents: the application's own index."""
    return np.argsort(-(index @ engine.adapt(query)))[:k]


def ask(question):
    """One request: search with the adapted query, let the engine re-score."""
    query = embedder.embed([question])[0]
    nearest = search(query)
    return engine.rank(query, [names[i] for i in nearest], index[nearest], k=10)


def hit_at_10(held_out):
    """Share of the questions with a right answer among the ten shown."""
    return float(np.mean([bool(set(ask(q.question).ids) & set(q.answers)) for q in held_out]))


before = hit_at_10(questions.test)
rng = np.random.default_rng(0)
clicks = 0
for i in rng.permutation(len(questions.train)):
    question = questions.train[i]
    decision = ask(question.question)
    helpful = [name for name in decision.ids if name in question.answers]
    if helpful:
        engine.feedback(decision.id, chosen=helpful, source="click")
        clicks += 1

print(f"{len(names)} documents, {len(questions.train)} questions asked, {clicks} of them led to a click")
print(f"held-out questions answered among the first ten: {before:.3f} before, {hit_at_10(questions.test):.3f} after")
print(engine.explain(ask(questions.test[0].question).id))
