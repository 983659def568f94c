"""Questions go to the cheapest model that is good enough, through the OpenAI chat protocol, and the router learns which one.

Runs offline: a local HTTP server speaks ``/v1/chat/completions`` for all models. It does not think. Whether a model answers
a question well is looked up:

- with ``SONA_DATA`` set: recorded outcomes and costs of 11 real models on RouterBench prompts, with real embeddings;
- without: a small made-up set, in which the small model is right on one kind of question and the big one always is.
"""

import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from sona import SonaConfig, SonaEngine, TinyDancerRouter
from sona.process import ChatModel, Context, Model

if os.environ.get("SONA_DATA"):
    from sona.bench.routing_data import load_routing_set

    data = load_routing_set("routerbench")
    rows = np.random.default_rng(0).permutation(len(data.x))[:1500]
    print(f"recorded outcomes of {len(data.models)} models on {len(rows)} RouterBench prompts")
    models, vectors, quality, cost = list(data.models), data.x[rows], data.quality[rows], data.cost[rows]
else:
    print("SONA_DATA is not set: a made-up set of 1,500 questions and two models")
    rng = np.random.default_rng(0)
    hard = rng.random(1500) < 0.4
    vectors = (np.where(hard[:, None], np.eye(16)[1], np.eye(16)[0]) + 0.15 * rng.normal(size=(1500, 16))).astype("float32")
    models = ["small", "big"]
    quality = np.stack([~hard, np.ones(1500)], axis=1).astype(float)
    cost = np.repeat([[0.0002, 0.004]], 1500, axis=0)


class Stub(BaseHTTPRequestHandler):
    """Answers with the recorded outcome, and reports a usage that costs what the call really cost."""

    def do_POST(self):
        """One call."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        row, m = int(body["messages"][0]["content"].split()[-1]), models.index(body["model"])
        text = "good" if quality[row, m] >= 0.5 else "bad"
        reply = {
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": cost[row, m] * 1e6, "completion_tokens": 0},
        }
        out = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(out)))
        self.end_headers()
        self.wfile.write(out)

    def log_message(self, *arguments):
        """Quiet."""


server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/v1"

prices = dict(zip(models, map(float, cost.mean(axis=0)), strict=True))
router = TinyDancerRouter(prices, dim=vectors.shape[1], cost_weight=0.1 / max(prices.values()), alpha=1.0)
engine = SonaEngine(
    SonaConfig(hidden_dim=vectors.shape[1]),
    models={m: Model(ChatModel(url, m, input_price=1.0, output_price=1.0), price=prices[m]) for m in models},
    judge=lambda question, text, context: float(text == "good"),
    router=router,
)

answers = [engine.process(f"question {i}", Context(user_id="u-1"), embedding=vectors[i]) for i in range(len(vectors))]
server.shutdown()

best = int(quality.mean(axis=0).argmax())
for name, part in (("first third", answers[:500]), ("last third", answers[1000:])):
    at = slice(0, 500) if name == "first third" else slice(1000, 1500)
    mean_quality, mean_cost = np.mean([[a.quality, 1000 * a.cost] for a in part], axis=0)
    print(
        f"{name}: quality {mean_quality:.3f} at {mean_cost:.3f} USD per 1,000; "
        f"always {models[best]}: {quality[at, best].mean():.3f} at {1000 * cost[at, best].mean():.3f}"
    )
used = {m: sum(a.model == m for a in answers[1000:]) for m in models}
print("used in the last third:", {m: n for m, n in sorted(used.items(), key=lambda item: -item[1]) if n})
print(f"overhead of a request without the model's call: {np.median([a.overhead_us for a in answers]) / 1000:.2f} ms (median)")
engine.close()
