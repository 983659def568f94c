"""CaseMemory and ItemGate against the float64 reference, and the promises they make."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sona.patterns import CaseMemory, ItemGate

HERE = Path(__file__).parent
GOLDEN = HERE / "golden" / "flagship" / "rec.npz"


def stream(name):
    with np.load(GOLDEN) as z:
        return {k.split("/", 1)[1]: z[k] for k in z.files if k.startswith(name + "/")}


def drop_padding(row):
    return [int(j) for j in row if j >= 0]


@pytest.mark.parametrize("name", ["small", "many", "mixed"])
def test_golden_streams(name):
    g = stream(name)
    items = g["items"].astype(np.float32)
    ids = list(range(len(items)))
    memory = CaseMemory(
        items.shape[1],
        eta=g["param_eta"],
        adapt_width=g["param_h_a"],
        temperature=g["param_tau"],
        recall_weight=g["param_w"],
        recall_width=g["param_h_r"],
        shrinkage=g["param_kappa"],
        neighbors=g["param_neighbors"],
    )
    gates = {
        mode: ItemGate(
            mode=mode, nu=g["param_nu"], z=g["param_z"], decay=g["param_decay"], warmup=g["param_warmup"]
        )
        for mode in ("evidence", "multiplier")
    }
    marks = list(g["marks"])

    def check(i):
        evidence, multiplier = gates["evidence"], gates["multiplier"]
        for p, probe in enumerate(g["probes"].astype(np.float32)):
            np.testing.assert_allclose(memory.adapt(probe), g["adapt"][i, p], atol=2e-6)
            np.testing.assert_allclose(memory.recall(probe, ids), g["recall"][i, p], atol=2e-6)
            np.testing.assert_allclose(memory.scores(probe, ids, items), g["scores"][i, p], atol=2e-6)
            by_gate = evidence.scores(memory, probe, ids, items)
            np.testing.assert_allclose(by_gate, g["evidence_scores"][i, p], atol=3e-6)
            by_gate = multiplier.scores(memory, probe, ids, items)
            np.testing.assert_allclose(by_gate, g["multiplier_scores"][i, p], atol=5e-6)
        assert (evidence.beta, evidence.lambda_) == (g["beta"][i], g["lambda"][i])
        assert [evidence.has_evidence(d) for d in ids] == [e >= 1.0 for e in g["evidence"][i]]
        used = evidence.metrics()
        assert used["arm"] == g["arm"][i]
        np.testing.assert_allclose(used["gain"], g["gains"][i][g["arm"][i]], atol=1e-9)
        np.testing.assert_allclose(
            used["gain_standard_error"], g["standard_errors"][i][g["arm"][i]], atol=1e-9
        )
        assert multiplier.metrics()["arm"] == g["multiplier_arm"][i]

    check(0)
    for t in range(len(g["q"])):
        q = g["q"][t].astype(np.float32)
        clicked, candidates = drop_padding(g["clicked"][t]), drop_padding(g["candidates"][t])
        s = memory.scores(q, ids, items)
        for gate in gates.values():
            gate.observe(memory, q, clicked, ids, items)
        memory.learn(
            q, clicked, candidates, items[candidates], scores=s[candidates], weight=g["weight"][t]
        )
        if t + 1 in marks:
            check(marks.index(t + 1))
