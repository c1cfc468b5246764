"""What a killed supervisor has left is ended by the next one, and nothing else is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from deploy.left_over import end_left_over, remember
from deploy.part import Part, start, stop
from tests.integration.system import until


def part(tmp_path: Path, name: str, script: str) -> Part:
    return Part(
        name=name, argv=["sh", "-c", script], log=tmp_path / name, cwd=tmp_path, ready=lambda: True, stop_timeout=10
    )


def test_what_still_runs_is_ended_although_it_loses_its_first_signal(tmp_path: Path) -> None:
    booting = "trap 'trap \"exit 0\" TERM' TERM; echo ready; while :; do sleep 0.05; done"
    first, second = part(tmp_path, "deaf", booting), part(tmp_path, "gone", "exit 0")
    deaf, gone = start(first), start(second)
    gone.wait(10)
    until(lambda: "ready" in first.log.read_text())
    remember(tmp_path, [(first, deaf), (second, gone)])
    said: list[str] = []
    assert end_left_over(tmp_path, said.append)
    assert deaf.wait(1) == 0
    assert said == ["ending what an earlier run has left: deaf"]
    assert not end_left_over(tmp_path, said.append)


def test_a_stranger_with_the_number_of_a_dead_part_is_left_alone(tmp_path: Path) -> None:
    own = part(tmp_path, "part", "sleep 60")
    process = start(own)
    try:
        remember(tmp_path, [(own, process)])
        file = tmp_path / "parts.json"
        file.write_text(file.read_text().replace('"began": "', '"began": "1'))
        assert not end_left_over(tmp_path, lambda _: None)
        assert process.poll() is None
    finally:
        stop(own, process)


def test_a_part_that_loses_its_stop_signal_gets_it_again(tmp_path: Path) -> None:
    losing = Part(
        name="losing",
        argv=["sh", "-c", "trap 'trap \"exit 3\" TERM' TERM; echo ready; while :; do sleep 0.05; done"],
        log=tmp_path / "log",
        cwd=tmp_path,
        ready=lambda: True,
        stop_again_after=0.2,
    )
    process: subprocess.Popen[bytes] = start(losing)
    until(lambda: "ready" in losing.log.read_text())
    stop(losing, process)
    assert process.returncode == 3, "it was not killed"


def test_a_part_does_not_outlive_a_starter_that_dies_at_once(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from deploy.part import Part, start\n"
        "at = Path(sys.argv[1])\n"
        "for _ in range(10):\n"
        "    if os.fork():\n"
        "        os.wait()\n"
        "    else:\n"
        "        argv = ['sh', '-c', 'echo $$ >> pids; exec sleep 60']\n"
        "        start(Part(name='p', argv=argv, log=at / 'log', cwd=at, ready=lambda: True))\n"
        "        os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=60)

    def alive() -> list[str]:
        pids = (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else []
        return [pid for pid in pids if Path(f"/proc/{pid}").exists()]

    until(lambda: not alive(), within=5)
