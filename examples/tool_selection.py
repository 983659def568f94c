"""An agent that may see 5 of 80 tools learns from outcomes which ones to offer.

The tools are 80 modules of the standard library, described by their docstrings; the tasks are questions that one of them
answers. The outcome of a task is whether the tool that solves it was among the five offered.
"""

import numpy as np

from sona import SonaConfig, SonaEngine
from sona.embed import TfidfSvdEmbedder
from sona.stdlib_corpus import build_corpus
from sona.stdlib_questions import load_questions

corpus = build_corpus()
modules = {d.name: d.indexed for d in corpus.documents if d.kind == "module"}
questions = load_questions(frozenset(corpus.names))


def module_of(answer):
    """The longest prefix of a qualified name that is a module."""
    parts = answer.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((p for p in prefixes if p in modules), None)


def tasks(split):
    """(question, module that solves it) for the questions of one split."""
    pairs = ((q.question, module_of(q.answers[0])) for q in split)
    return [(text, tool) for text, tool in pairs if tool is not None]


train, test = tasks(questions.train), tasks(questions.test)
wanted = sorted({tool for _, tool in train + test})
tools = (wanted + [m for m in sorted(modules) if m not in wanted])[:80]
train = [(text, tool) for text, tool in train if tool in tools]
test = [(text, tool) for text, tool in test if tool in tools]

embedder = TfidfSvdEmbedder.fit([d.indexed for d in corpus.documents], dim=256)
vectors = embedder.embed([modules[t] for t in tools])
engine = SonaEngine(SonaConfig(hidden_dim=256), embedder=embedder)


def offer(task):
    """Five tools for a task; their vectors are known to the engine after the first call."""
    return engine.rank(task, tools, vectors, k=5, scope="agent")


def recall_at_5():
    """Share of the held-out tasks whose tool is offered."""
    return np.mean([tool in offer(task).ids for task, tool in test])


before = recall_at_5()
for i in np.random.default_rng(0).permutation(len(train)):
    task, tool = train[i]
    decision = offer(task)
    if tool in decision.ids:
        engine.feedback(decision.id, rewards={tool: 1.0}, source="agent")
    else:
        # The agent failed with the five it had, and the right tool was found later: items that were not shown count too.
        engine.feedback(decision.id, chosen=tool, source="agent")
print(f"{len(tools)} tools, {len(train)} tasks learned from, {len(test)} held out")
print(f"right tool among the five offered: {before:.3f} before, {recall_at_5():.3f} after")
