"""engine.process: one request from question to answer."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from sona import SonaConfig, SonaEngine, TinyDancerRouter
from sona.exceptions import ConfigError, LearningError, NotFiniteError
from sona.process import Answer, ChatModel, Context, Model

D = 8


class Hashed:
    """Embeds a text by its first word."""

    dim = D
    fingerprint = "first word v1"

    def embed(self, texts):
        return np.stack([np.random.default_rng(sum(t.split()[0].encode())).normal(size=D) for t in texts]).astype("float32")


def models(calls):
    def model(name, good):
        def call(question, context):
            calls.append((name, question, context))
            return Answer("right" if question.split()[0] in good else "wrong", cost=0.5 if name == "small" else 5.0)

        return call

    return {"small": Model(model("small", {"easy"}), 1.0), "big": Model(model("big", {"easy", "hard"}), 10.0)}


def judge(question, text, context):
    return float(text == "right")


def engine(calls, **options):
    router = TinyDancerRouter({"small": 1.0, "big": 10.0}, dim=D, cost_weight=0.02, alpha=1.0, exploration=0.1)
    return SonaEngine(SonaConfig(hidden_dim=D), embedder=Hashed(), models=models(calls), judge=judge, router=router, **options)


def test_requests_go_to_the_cheapest_that_is_good_enough():
    calls = []
    eng = engine(calls)
    answers = [eng.process(f"{'easy' if i % 2 else 'hard'} {i}", Context(user_id="u")) for i in range(400)]
    late = answers[300:]
    assert np.mean([a.model == "small" for a in late[1::2]]) > 0.7
    assert np.mean([a.model == "big" for a in late[0::2]]) > 0.7
    assert np.mean([a.quality for a in late]) > 0.85
    assert [c[0] for c in calls] == [a.model for a in answers]
    assert calls[0][2].user_id == "u"
    assert {a.cost for a in answers} == {0.5, 5.0}
    for a in answers:
        assert 0.0 <= a.confidence <= 1.0
        assert 0.0 < a.overhead_us <= a.latency_us
    assert eng.router.metrics()["outcomes"] == 400
    assert eng.find_patterns("easy 1") == []
    eng.background_learn()
    assert eng.process("easy again").patterns_used > 0


def test_outcomes_may_come_later():
    eng = SonaEngine(SonaConfig(hidden_dim=D), embedder=Hashed(), models=models([]))
    a = eng.process("easy 1")
    assert a.quality is None
    assert eng.outcome(a.decision_id, 0.7, cost=2.0)
    assert not eng.outcome(a.decision_id, 0.7)
    with pytest.raises(KeyError):
        eng.outcome("r-77", 0.5)


def test_a_model_that_raises_is_left_out():
    def broken(question, context):
        raise OSError("down")

    eng = SonaEngine(
        SonaConfig(hidden_dim=D),
        models={"a": Model(lambda q, c: "fine", 1.0), "b": Model(broken, 9.0)},
        judge=lambda q, t, c: 1.0,
    )
    assert {eng.process("q", embedding=np.ones(D)).model for _ in range(20)} == {"a"}
    assert eng.router.metrics()["errors"] >= 1
    alone = SonaEngine(SonaConfig(hidden_dim=D), models={"b": Model(broken, 9.0)})
    with pytest.raises(LearningError, match="down"):
        alone.process("q", embedding=np.ones(D))


def test_without_what_it_needs():
    with pytest.raises(ConfigError, match="models"):
        SonaEngine(SonaConfig(hidden_dim=D)).process("q")
    with pytest.raises(ConfigError, match="models"):
        SonaEngine(SonaConfig(hidden_dim=D), models={})
    with pytest.raises(ConfigError, match="embedder"):
        SonaEngine(SonaConfig(hidden_dim=D), models=models([])).process("q")
    with pytest.raises(ConfigError, match="router"):
        SonaEngine(SonaConfig(hidden_dim=D), models=models([]), router=TinyDancerRouter({"x": 1.0}, dim=D))


def test_the_router_is_kept_in_the_state_directory(tmp_path):
    with engine([], store=tmp_path) as eng:
        for i in range(30):
            eng.process(f"easy {i}")
        known = eng.router.metrics()["outcomes"]
    with SonaEngine(
        SonaConfig(hidden_dim=D), store=tmp_path, embedder=Hashed(), models={**models([]), "new": Model(str, 2.0)}
    ) as eng:
        assert eng.router.metrics()["outcomes"] == known
        assert list(eng.router.models) == ["small", "big", "new"]


def test_chat_protocol():
    seen = []

    class Stub(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, dict(self.headers), json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            reply = {"choices": [{"message": {"content": "hello"}}], "usage": {"prompt_tokens": 1000, "completion_tokens": 500}}
            out = json.dumps(reply if "good" in seen[-1][2]["model"] else {"choices": []}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/v1/"
        model = ChatModel(url, "good", input_price=2.0, output_price=4.0, api_key="key")
        assert model("hi", Context(user_id="u")) == Answer("hello", pytest.approx(0.004))
        path, headers, body = seen[0]
        assert (path, headers["Authorization"]) == ("/v1/chat/completions", "Bearer key")
        assert body == {"model": "good", "messages": [{"role": "user", "content": "hi"}], "user": "u"}
        with pytest.raises(ValueError, match="choices"):
            ChatModel(url, "other")("hi", Context())
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    with pytest.raises(ConfigError):
        ChatModel("file:///etc/passwd", "x")


def test_an_embedding_is_anything_that_is_a_vector():
    models = {"a": Model(lambda q, c: "yes", price=1.0)}
    with SonaEngine(SonaConfig(hidden_dim=2), models=models) as eng:
        for x in ([1.0, 0.0], np.array([1.0, 0.0]), np.array([1, 0])):
            assert eng.process("q", embedding=x).text == "yes"
        for x in ([np.nan, 0.0], [1.0, np.inf]):
            with pytest.raises(NotFiniteError):
                eng.process("q", embedding=x)
