"""Two that start in the same moment are not given the same port."""

from __future__ import annotations

import subprocess
import sys

import pytest

from deploy.part import free_port, taken_port

_TAKE = (
    "import sys; from deploy.part import free_port; print(free_port(int(sys.argv[1])), flush=True); sys.stdin.read()"
)


@pytest.mark.skipif(sys.platform != "linux", reason="the abstract namespace of sockets is Linux's")
def test_a_port_that_another_process_was_given_is_given_to_nobody_else_while_it_lives() -> None:
    port = free_port()  # nobody listens there; ours, so another is not given it
    with subprocess.Popen(
        [sys.executable, "-c", _TAKE, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        theirs = int(other.stdout.readline())
        assert theirs != port
        assert taken_port(theirs, theirs, "127.0.0.1") is None, "it does not listen yet"
        assert free_port(theirs) != theirs
        other.communicate("")
    assert free_port(theirs) == theirs
    assert free_port(port) == port, "whoever was given it may be given it again"
