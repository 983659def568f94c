"""Two tenants in one engine: each learns its own preferences, neither sees the other's, and one can be forgotten.

Both ask how to handle file paths. One team lives in ``os.path``, the other in ``pathlib``.
"""

import tempfile

from sona import SonaConfig, SonaEngine
from sona.embed import TfidfSvdEmbedder
from sona.stdlib_corpus import build_corpus

corpus = build_corpus()
embedder = TfidfSvdEmbedder.fit([d.indexed for d in corpus.documents], dim=256)
paths = [d for d in corpus.documents if d.name.startswith(("os.path.", "pathlib."))]
names = [d.name for d in paths]
vectors = embedder.embed([d.indexed for d in paths])
questions = [
    "get the file name without its folder",
    "does this path exist",
    "join a folder and a file name",
    "split off the extension",
]

with tempfile.TemporaryDirectory() as folder, SonaEngine(SonaConfig(hidden_dim=256), store=folder, embedder=embedder) as engine:
    for tenant, prefix in (("classic", "os.path."), ("modern", "pathlib.")):
        for round_ in range(3):
            for question in questions:
                decision = engine.rank(question, names, vectors, k=10, scope=tenant)
                liked = [name for name in decision.ids if name.startswith(prefix)]
                if liked:
                    engine.feedback(decision.id, chosen=liked[0], source="click", user=f"{tenant}-{round_}")

    question = "does the path exist"
    for tenant in ("classic", "modern", "newcomer"):
        print(f"{tenant:<9}", engine.rank(question, names, vectors, k=3, scope=tenant).ids)

    modern = engine.digest("modern")
    for round_ in range(3):
        engine.forget(user=f"classic-{round_}")
    print("classic, all users forgotten:", engine.rank(question, names, vectors, k=3, scope="classic").ids)
    print("modern is unchanged:", engine.digest("modern") == modern)
