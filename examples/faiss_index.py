"""The same with a FAISS index: search with the adapted query, re-score the hits, report the click.

Needs ``pip install faiss-cpu``.
"""

import faiss
import numpy as np

from sona import SonaConfig, SonaEngine
from sona.embed import TfidfSvdEmbedder
from sona.stdlib_corpus import build_corpus
from sona.stdlib_questions import load_questions

corpus = build_corpus()
names = list(corpus.names)
embedder = TfidfSvdEmbedder.fit([d.indexed for d in corpus.documents], dim=256)
vectors = embedder.embed([d.indexed for d in corpus.documents])
index = faiss.IndexFlatIP(256)
index.add(vectors)
engine = SonaEngine(SonaConfig(hidden_dim=256), embedder=embedder)


def ask(question):
    """One request."""
    query = embedder.embed([question])[0]
    _, found = index.search(engine.adapt(query)[None, :], 50)
    found = found[0]
    # The index scored the adapted query; the engine wants the application's scores of the query itself.
    return engine.rank(query, [names[i] for i in found], vectors[found], scores=vectors[found] @ query, k=10)


questions = load_questions(frozenset(names))


def reciprocal_rank(question):
    """1/rank of the first right answer among the ten shown, 0 if there is none."""
    places = [r for r, name in enumerate(ask(question.question).ids, start=1) if name in question.answers]
    return 1.0 / places[0] if places else 0.0


before = np.mean([reciprocal_rank(q) for q in questions.test])
for question in questions.train:
    decision = ask(question.question)
    helpful = [name for name in decision.ids if name in question.answers]
    if helpful:
        engine.feedback(decision.id, chosen=helpful, source="click")
after = np.mean([reciprocal_rank(q) for q in questions.test])
print(f"MRR@10 on {len(questions.test)} held-out questions: {before:.3f} before, {after:.3f} after")
