"""What `import sona` offers, and what it does not do."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sona


def test_every_public_name_is_there():
    for name in sona.__all__:
        assert getattr(sona, name) is not None
    assert set(sona.__all__) <= set(dir(sona))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = sona.no_such_name


def test_rooms_and_the_classes_of_the_design_are_reached_from_the_top():
    code = (
        "import sona\n"
        "assert sona.Context(user_id='u').user_id == 'u' and sona.Response is sona.process.Response\n"
        "assert sona.control.MinCut is sona.MinCut and sona.EventBus().dropped_count == 0\n"
        "assert sona.QuantizedMicroLoRA(sona.MicroLoRA(8)).nbytes > 0\n"
        "assert len(sona.PriorityReplayBuffer(2)) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_loads_only_what_the_engine_needs_and_starts_no_thread():
    code = (
        "import sys, threading, sona\n"
        "loaded = [m for m in ('sona.attention', 'sona.lora', 'sona.patterns', 'matplotlib', 'tqdm') if m in sys.modules]\n"
        "assert not loaded, loaded\n"
        "assert threading.active_count() == 1\n"
        "assert sona.attention.names() and sona.MicroLoRA(4).rank == 2\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
