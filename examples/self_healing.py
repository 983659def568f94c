"""A search that is broken in five ways and mends itself, with a plot of what its users would have seen.

Documents are the docstrings of Python's standard library; the questions were written by people. Every tick asks some questions,
learns from what helps, asks forty fixed probe questions, and hands three numbers to the orchestrator: the share of probes that
are answered, the share of feedbacks that fail, and the median latency. It is not told what broke.
"""

import resource
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from sona import SonaConfig, SonaEngine, StoreError
from sona.control import Ewma, HealingOrchestrator, PageHinkley
from sona.embed import TfidfSvdEmbedder
from sona.patterns import VectorIndex
from sona.stdlib_corpus import build_corpus
from sona.stdlib_questions import load_questions

rng = np.random.default_rng(0)
corpus = build_corpus()
names = list(corpus.names)
fitted = TfidfSvdEmbedder.fit([d.indexed for d in corpus.documents], dim=256)
documents = fitted.embed([d.indexed for d in corpus.documents])
questions = load_questions(frozenset(names))
state = Path(tempfile.mkdtemp()) / "state"


class Service:
    """The application: an index, an encoder, an engine, and a maintenance job."""

    def __init__(self):
        self.turn = np.eye(256, dtype=np.float32)
        self.engine = SonaEngine(SonaConfig(hidden_dim=256), store=state)
        self.sources = []
        self.job = None
        self.build_index()

    def build_index(self):
        """Index all documents anew."""
        self.index = VectorIndex(256, kind="flat")
        self.index.add(np.arange(len(names)), documents)

    def ask(self, question, k=10):
        """One request: the index's nearest documents, re-scored."""
        query = fitted.embed([question])[0] @ self.turn
        nearest = self.index.search(self.engine.adapt(query), 50)[0]
        nearest = nearest[nearest >= 0]
        return self.engine.rank(query, [names[i] for i in nearest], documents[nearest], k=k)

    def click(self, decision, chosen, source):
        """Feedback, and whose it was."""
        self.sources.append(source)
        self.engine.feedback(decision, chosen=chosen, source=source)


service = Service()
pool = [q for q in questions.train if set(service.ask(q.question).ids) & set(q.answers)]
probes, asked = pool[:40], pool[40:]


# --- what can break ------------------------------------------------------------------------------------------------------
def lose_rows():
    service.index.remove(rng.permutation(len(names))[: len(names) // 2])


def change_encoder():
    service.turn = np.linalg.qr(rng.normal(size=(256, 256)))[0].astype(np.float32)


def poison():
    for q in probes * 8:
        decision = service.ask(q.question, k=50)
        wrong = [n for n in decision.ids if n not in q.answers]
        service.click(decision, rng.choice(wrong[:5]), "bot-7")


def fill_disk():
    size = max(f.stat().st_size for f in state.rglob("*") if f.is_file())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def start_runaway_job():
    stop = threading.Event()

    def spin():
        while not stop.is_set():
            sum(range(1000))

    service.job = ([threading.Thread(target=spin, daemon=True) for _ in range(4)], stop)
    for thread in service.job[0]:
        thread.start()


# --- what can be done ----------------------------------------------------------------------------------------------------
def restore_encoder():
    service.turn, service.previous = np.eye(256, dtype=np.float32), service.turn


def back_to_new_encoder():
    service.turn = service.previous


def quarantine():
    """Takes back the source that gave most feedback lately, with all that was learned from it."""
    found, counts = np.unique(service.sources[-400:], return_counts=True)
    if len(found) > 1:
        service.engine.purge(source=str(found[np.argmax(counts)]))


def reopen_store():
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)  # stands for: make room on the disk
    service.engine.close()
    service.engine = SonaEngine(SonaConfig(hidden_dim=256), store=state)


def stop_job():
    if service.job:
        service.job[1].set()
        for thread in service.job[0]:
            thread.join()


healer = HealingOrchestrator(patience=3)
healer.register("probes answered", PageHinkley(delta=0.02, threshold=0.15, min_instances=5, mode="down"), tolerance=0.06)
healer.register("failed feedbacks", Ewma(threshold=6.0, warmup=5), tolerance=0.05)
healer.register("latency ms", Ewma(threshold=12.0, warmup=10), tolerance=1.5)
healer.add_action("rebuild the index", service.build_index, cost=1.0, metrics=["probes answered"])
healer.add_action("restore the encoder", restore_encoder, cost=2.0, undo=back_to_new_encoder, metrics=["probes answered"])
healer.add_action("quarantine a source", quarantine, cost=3.0, metrics=["probes answered"])
healer.add_action("reopen the store", reopen_store, cost=1.0, metrics=["failed feedbacks"])
healer.add_action("stop maintenance", stop_job, cost=1.0, metrics=["latency ms"])

faults = {60: lose_rows, 90: change_encoder, 120: poison, 150: fill_disk, 180: start_runaway_job}
history = []
for tick in range(210):
    if tick in faults:
        faults[tick]()
    failed, times = 0, []
    batch = rng.choice(len(asked), 10)
    for q in (asked[i] for i in batch):
        start = time.perf_counter()
        decision = service.ask(q.question)
        times.append(1000 * (time.perf_counter() - start))
        helpful = [n for n in decision.ids if n in q.answers]
        if helpful:
            try:
                service.click(decision, helpful, "users")
            except (StoreError, ValueError):  # a decision that found the disk full was not recorded
                failed += 1
    answered = np.mean([bool(set(service.ask(q.question).ids) & set(q.answers)) for q in probes])
    history.append((answered, failed / 10, float(np.median(times))))
    for metric, value in zip(("probes answered", "failed feedbacks", "latency ms"), history[-1], strict=True):
        healer.observe(metric, value, now=float(tick))

stop_job()
for report in healer.reports:
    print(f"tick {report.at:3.0f}  {report.metric:17}  {report.action}: {report.outcome}")
answered, failures, latency = np.array(history).T
print("\nfault               before   worst   at the end of its time")
good = True
levels = [(answered, min)] * 3 + [(failures, max), (latency, max)]
for (tick, fault), (values, worst) in zip(faults.items(), levels, strict=True):
    before, after = np.median(values[tick - 10 : tick]), np.median(values[tick + 25 : tick + 30])
    print(f"{fault.__name__:18} {before:7.2f} {worst(values[tick : tick + 30]):7.2f} {after:7.2f}")
    good &= abs(after - before) <= (2.0 if values is latency else 0.08)
print("every service level came back" if good else "a service level did not come back")

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
except ImportError:
    print("no plot: matplotlib is not installed")
else:
    figure, axes = plt.subplots(3, sharex=True, figsize=(9, 6), layout="constrained")
    for axis, values, label in zip(
        axes, (answered, failures, latency), ("probes answered", "failed feedbacks", "latency, ms"), strict=True
    ):
        axis.plot(values, color="black", linewidth=1)
        axis.set_ylabel(label)
        for tick, fault in faults.items():
            axis.axvline(tick, color="tab:red", linestyle=":")
            if axis is axes[0]:
                axis.annotate(
                    fault.__name__.replace("_", " "),
                    (tick, 1.02),
                    xycoords=("data", "axes fraction"),
                    color="tab:red",
                    fontsize=8,
                )
        for report in healer.reports:
            if report.outcome == "started":
                axis.axvline(report.at, color="tab:green", alpha=0.3)
    axes[-1].set_xlabel("tick (red: fault, green: action)")
    path = Path(tempfile.gettempdir()) / "self_healing.png"
    figure.savefig(path, dpi=120)
    print(f"plot: {path}")
raise SystemExit(0 if good else 1)
