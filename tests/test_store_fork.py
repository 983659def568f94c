"""Forks beside the flusher of group commit."""

from __future__ import annotations

import os
import signal
import time
import warnings

import pytest

from sona.store import EventLog


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_of_a_child_do_not_meet_those_of_its_parent(tmp_path):
    """A flusher that waited at the fork does not exist in the child; a new one may be where it was in memory."""
    with EventLog(tmp_path / "parent", fsync="group") as log:
        log.append(b"the flusher starts")
        time.sleep(0.3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(30)
                logs = [EventLog(tmp_path / str(i), fsync="group") for i in range(64)]
                for _ in range(2):
                    for i, own in enumerate(logs):
                        own.append(b"%d" % i)
                    time.sleep(0.3)
                for own in logs:
                    own.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        log.append(b"goes on")
