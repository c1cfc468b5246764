"""`make setup`: a virtual environment with exactly the locked packages, and the Debian tree.

Instant when nothing has changed: a stamp in the environment holds a hash of the lock file, the
project file and the Python version. Two that run at once take turns; one that was interrupted left
a mark, and the next run then makes the environment from nothing.

Only the standard library is used: this runs before there is anything else (that Python is new enough
the Makefile has checked). Packages come from
whatever index this machine's pip is set to; the hashes in the lock say whether they are the right ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from deploy import debian
from models.errors import TrunklineError, Unavailable

ROOT = Path(__file__).resolve().parent.parent
PIP_TIMEOUT = 1800
LOCK_TIMEOUT = 1800
PROGRESS_EVERY = 8
STAMP = ".trunkline-stamp"
INSTALLING = ".trunkline-installing"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Environment:
    """The checkout's virtual environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / ".venv"
        self.python = self.path / "bin" / "python"
        self.lock_file = root / "requirements.lock"

    @property
    def wanted(self) -> dict[str, str]:
        """What the stamp says when everything is as it should be."""
        digest = hashlib.sha256(sys.version.encode())
        for name in ("requirements.lock", "pyproject.toml"):
            digest.update((self.root / name).read_bytes())
        return {"digest": digest.hexdigest(), "root": str(self.root)}

    @property
    def stamp(self) -> dict[str, str]:
        try:
            found = json.loads((self.path / STAMP).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def ready(self) -> bool:
        return self.python.exists() and self.stamp == self.wanted

    def provide(self) -> None:
        """Make it ready. Raises `Unavailable` with pip's own last word."""
        if self.ready():
            return
        with _taking_turns(self.root):
            if self.ready():
                return
            started = time.monotonic()
            if not self._usable():
                self._make()
            (self.path / STAMP).unlink(missing_ok=True)
            (self.path / INSTALLING).touch()
            self._install()
            (self.path / STAMP).write_text(json.dumps(self.wanted))
            (self.path / INSTALLING).unlink()
            _say(f"The Python packages are ready ({time.monotonic() - started:.0f} s).")

    def _usable(self) -> bool:
        """It is whole, of this Python and in its own place, so that only packages need a change."""
        if (self.path / INSTALLING).exists() or self.stamp.get("root", str(self.root)) != str(self.root):
            return False
        probe = "import pip, sys; print(*sys.version_info[:2])"
        try:
            done = subprocess.run(
                [self.python, "-I", "-c", probe], capture_output=True, text=True, timeout=60, check=False
            )
        except OSError:
            return False
        return done.stdout.split() == [str(n) for n in sys.version_info[:2]]

    def _make(self) -> None:
        _say(f"Making .venv with Python {sys.version.split()[0]} ...")
        shutil.rmtree(self.path, ignore_errors=True)
        self.path.mkdir()
        (self.path / INSTALLING).touch()
        python = getattr(sys, "_base_executable", None) or sys.executable
        if importlib.util.find_spec("ensurepip"):
            _run([python, "-m", "venv", str(self.path)])
            return
        _run([python, "-m", "venv", "--without-pip", str(self.path)])
        _say("This Python has no ensurepip; fetching pip from your Debian mirror ...")
        with tempfile.TemporaryDirectory(prefix="trunkline-pip-") as room:
            wheels = list(debian.fetch_package("python3-pip-whl", Path(room)).glob("usr/share/python-wheels/pip-*.whl"))
            if not wheels:
                raise Unavailable("Debian's python3-pip-whl holds no pip: install python3-venv and run this again")
            _run([str(self.python), "-I", f"{wheels[0]}/pip", "install", "--quiet", "--no-index", str(wheels[0])])

    def _install(self) -> None:
        count = len(re.findall(r"^[A-Za-z0-9].*==", self.lock_file.read_text(), re.MULTILINE))
        _say(f"Installing {count} locked packages ...")
        pip = [
            str(self.python),
            "-I",
            "-m",
            "pip",
            "--disable-pip-version-check",
            "--no-input",
            "install",
            "--progress-bar=off",
        ]
        _run_with_progress([*pip, "--require-hashes", "--no-deps", "-r", str(self.lock_file)], count)
        _run([*pip, "--quiet", "--no-deps", "--no-build-isolation", "-e", str(self.root)])


@contextlib.contextmanager
def _taking_turns(root: Path) -> Iterator[None]:
    """A lock on the checkout's directory itself; the kernel frees it when its holder dies."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    waited = False
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable("another `make setup` in this checkout does not end") from None
                if not waited:
                    _say("Another `make setup` is at work in this checkout; waiting for it ...")
                waited = True
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def _run(words: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PIP_TIMEOUT, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{Path(words[0]).name} did not end within {PIP_TIMEOUT} s") from error
    if done.returncode:
        raise Unavailable(_last_word(done.stdout + done.stderr))


def _run_with_progress(words: Sequence[str], count: int) -> None:
    """Run pip; now and then say how far it is, and nothing at all when it is quick."""
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        cwd=ROOT,
    ) as process:
        stopper = threading.Timer(PIP_TIMEOUT, process.kill)
        stopper.daemon = True
        stopper.start()
        lines: list[str] = []
        found, said = 0, time.monotonic()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                found += line.startswith("Collecting ")
                if line.startswith("Installing collected packages"):
                    found = 0
                    _say("  all fetched; unpacking ...")
                elif found and time.monotonic() - said > PROGRESS_EVERY:
                    said = time.monotonic()
                    _say(f"  {found} of {count}")
        except BaseException:
            process.kill()
            raise
        finally:
            stopper.cancel()
    if process.returncode:
        raise Unavailable(_last_word("".join(lines)))


def _last_word(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return "the packages could not be installed: " + " ".join((errors or lines or ["no reason given"])[-2:])


def main() -> int:
    """Everything `make demo` and `make test` need. Exit status 1, with one line, when it cannot be had."""
    try:
        Environment(ROOT).provide()
        try:
            debian.provide()
        except Unavailable as error:
            if not os.environ.get("TRUNKLINE_ASTERISK_NODES"):
                raise
            _say(f"No embedded Asterisk ({error}); yours will be used.")
    except TrunklineError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    _say("Ready.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
