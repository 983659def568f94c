"""A real gunicorn server with --preload: workers share one state directory, and everything acknowledged is there afterwards."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sona import SonaConfig, SonaEngine

pytest.importorskip("gunicorn", reason="needs gunicorn (part of the test extra)")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

REQUESTS = 120

APP = """
    import json, os
    import numpy as np
    from sona import SonaConfig, SonaEngine

    engine = SonaEngine(SonaConfig(hidden_dim=16, source_caps={}, user_cap_per_minute=0), store=STATE)
    items = np.random.default_rng(0).normal(size=(30, 16)).astype("float32")
    ids = [f"item-{i}" for i in range(30)]

    def application(environ, start_response):
        n = int(environ["QUERY_STRING"])
        query = np.random.default_rng(n).normal(size=16).astype("float32")
        decision = engine.rank(query, ids, items, k=5)
        engine.feedback(decision.id, chosen=decision.ids[n % 5], user=f"user-{n}")
        body = json.dumps([os.getpid(), decision.id]).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]
"""


class Connection(http.client.HTTPConnection):
    """HTTP over a socket file: no port to collide on."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(str(self.path))


def ask(path: Path, n: int) -> list:
    connection = Connection(path)
    try:
        connection.request("GET", f"/?{n}")
        response = connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        return json.loads(body)
    finally:
        connection.close()


def wait_until_it_serves(server: subprocess.Popen, path: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, server.communicate()[0]
        if path.exists():
            connection = Connection(path)
            try:
                connection.connect()
            except OSError:
                time.sleep(0.05)
            else:
                return
            finally:
                connection.close()
        time.sleep(0.05)
    raise AssertionError("gunicorn did not start")


def test_preloaded_workers_learn_into_one_state(tmp_path):
    state, path = tmp_path / "state", tmp_path / "s.sock"
    (tmp_path / "app.py").write_text(f"STATE = {str(state)!r}\n" + textwrap.dedent(APP))
    command = [sys.executable, "-m", "gunicorn", "--preload", "--workers", "2", "--bind", f"unix:{path}", "app:application"]
    # The server finds the package where the tests do.
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    server = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_until_it_serves(server, path)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda n: ask(path, n), range(REQUESTS)))
    finally:
        server.send_signal(signal.SIGTERM)
        output, _ = server.communicate(timeout=60)
    assert server.returncode == 0, output
    workers = {pid for pid, _ in answers}
    assert server.pid not in workers
    assert len({decision for _, decision in answers}) == REQUESTS
    with SonaEngine(SonaConfig(hidden_dim=16, user_cap_per_minute=0), store=state) as engine:
        metrics = engine.metrics()
        assert metrics["cases"] == REQUESTS, metrics
