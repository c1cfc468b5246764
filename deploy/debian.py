"""Asterisk and SIPp from Debian's own packages, in a private tree, as any user.

Stable Debian ships no Asterisk; sid does. apt is run with directories of its own (an empty dpkg
status, one source: the Debian mirror this machine already uses, checked by the keyring it already
trusts), the packages are unpacked with dpkg-deb, and their programs run through the tree's own
loader. Nothing is installed, no maintainer script runs, nothing of the system's apt is written.

    provide() ─ tree of this recipe there? ─ yes ─▶ at once
                     │ no
                     ▼
              lock, build aside, rename ─ failed ─▶ an earlier tree, and it is said
                                                    └─ none: Unavailable, saying what to provide

The cache is `$XDG_CACHE_HOME/trunkline` (or `~/.cache/trunkline`) and shared by all checkouts:

    asterisk -> asterisk-<time>-<random>/    the newest good tree; the one before it is kept, since
        versions.json                        an Asterisk may still be running from it
        root/

Only the standard library is used, because this also runs before there is a virtual environment.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from models.errors import TrunklineError, Unavailable

SUITE = "sid"
PACKAGES = ("asterisk", "sip-tester", "ca-certificates")
RECIPE = f"1 {SUITE} {' '.join(PACKAGES)}"
"""What a tree is made by; one made by another recipe is replaced."""

LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
ARCHITECTURE = "amd64"
DEFAULT_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
NOBODY = 65534

UPDATE_TIMEOUT = 180
DOWNLOAD_TIMEOUT = 1200
UNPACK_TIMEOUT = 120
LOCK_TIMEOUT = 1500
PROGRESS_EVERY = 10

OWN_ASTERISK = "set TRUNKLINE_ASTERISK_NODES to an Asterisk (version 22 or newer) of your own"

# Carried over from the machine's own source: how it wants that mirror to be trusted.
CARRIED_OPTIONS = ("signed-by", "trusted", "check-valid-until")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------- the machine's sources


@dataclass(frozen=True, kw_only=True)
class Source:
    """One address of one entry in the machine's apt sources."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def signed_by(self) -> str:
        return self.options.get("signed-by", "")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where this machine says what it is and where its packages come from."""

    os_release: Path = Path("/etc/os-release")
    apt: Path = Path("/etc/apt")
    architecture: str = ""

    def describe(self) -> dict[str, str]:
        """The fields of os-release; empty if there is none."""
        try:
            lines = self.os_release.read_text().splitlines()
        except OSError:
            return {}
        pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        return {name.strip(): "".join(shlex.split(value)) for name, value in pairs}

    def debian_mirror(self) -> Source:
        """The mirror that this Debian machine itself installs from.

        Raises `Unavailable` if this is not Debian on amd64 (a derivative is not: its archive is
        another one), or if its apt sources name no Debian mirror.
        """
        release = self.describe()
        if release.get("ID") != "debian" or not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
            name = release.get("PRETTY_NAME") or platform.system()
            raise Unavailable(f"the embedded Asterisk comes from Debian's packages and this is {name}: {OWN_ASTERISK}")
        architecture = self.architecture or _dpkg_architecture()
        if architecture != ARCHITECTURE:
            raise Unavailable(
                f"the embedded Asterisk needs an {ARCHITECTURE} machine and this is {architecture}: {OWN_ASTERISK}"
            )
        mirror = choose_mirror(read_sources(self.apt), release.get("VERSION_CODENAME", ""))
        if mirror is None:
            raise Unavailable(f"no Debian mirror is named in the sources under {self.apt}: add one, or {OWN_ASTERISK}")
        return mirror


def _dpkg_architecture() -> str:
    found = subprocess.run(["dpkg", "--print-architecture"], capture_output=True, text=True, timeout=30, check=False)
    return found.stdout.strip() or platform.machine()


def read_sources(apt: Path) -> list[Source]:
    """Every enabled binary source, in apt's own order: sources.list, then the parts by name."""
    parts = sorted(p for p in apt.glob("sources.list.d/*") if p.suffix in (".list", ".sources"))
    found: list[Source] = []
    for path in [apt / "sources.list", *parts]:
        try:
            text = path.read_text(errors="replace")
        except OSError:
            continue
        found += parse_deb822(text) if path.suffix == ".sources" else parse_one_line(text)
    return found


def parse_one_line(text: str) -> list[Source]:
    """`deb [signed-by=... arch=...] URI SUITE COMPONENT...`, one a line."""
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s*([^#]*)", line)
        if not match:
            continue
        pairs = (option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
        options = {name.lower(): value.replace(",", " ") for name, value in pairs}
        found.append(Source(uri=match[2], suites=(match[3],), components=tuple(match[4].split()), options=options))
    return found


def parse_deb822(text: str) -> list[Source]:
    """Stanzas of `Name: value`, continued by indented lines; one `Source` for each address."""
    found = []
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n[ \t]*\n", "\n".join(lines)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t"):
                fields[name] = f"{fields.get(name, '')}\n{line}"
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.lower()
                fields[name] = value.strip()
        enabled = fields.get("enabled", "yes").lower() not in ("no", "false", "0", "off", "without", "disable")
        if not enabled or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            suites, components = tuple(fields.get("suites", "").split()), tuple(fields.get("components", "").split())
            found.append(Source(uri=uri, suites=suites, components=components, options=fields))
    return found


def choose_mirror(sources: Sequence[Source], codename: str) -> Source | None:
    """The source that is most surely Debian's main archive; None if there is none.

    Others publish under Debian's suite names too, so a source with a key of its own is never taken,
    and one without any must at least call itself Debian. Security and snapshots of other suites are
    separate archives that have no sid.
    """
    suites = {"stable", "oldstable", "testing", "unstable", "sid", "forky", "trixie", "bookworm", "bullseye", codename}

    def certainty(source: Source) -> int:
        path = urlsplit(source.uri).path.rstrip("/")
        if "main" not in source.components or not suites.intersection(source.suites) or path.endswith("security"):
            return 0
        signed_by = source.signed_by.strip()
        if signed_by:
            return 4 if "debian-archive" in signed_by else 2 if path.endswith("/debian") and _is_key(signed_by) else 0
        return 3 if path.endswith("/debian") else 1 if "debian" in source.uri else 0

    ranked = sorted(sources, key=certainty, reverse=True)
    return ranked[0] if ranked and certainty(ranked[0]) else None


def _is_key(signed_by: str) -> bool:
    """Signed-By holds the key itself, or a fingerprint, and not the name of a keyring."""
    return "/" not in signed_by.split("\n", 1)[0]


# ----------------------------------------------------------------------------- apt, in a private room


class FetchFailed(TrunklineError):
    """apt or dpkg-deb could not do it; the message is their own last word."""


@dataclass(frozen=True, kw_only=True)
class PrivateApt:
    """apt with every directory its own; the machine's Acquire settings (proxies, certificates) stay."""

    room: Path
    source: Source
    suite: str

    def __post_init__(self) -> None:
        for name in ("state/lists/partial", "cache/archives/partial", "log", "sources", "empty"):
            (self.room / name).mkdir(parents=True, exist_ok=True)
        (self.room / "status").touch()
        uri = re.sub(r"^file:", "copy:", self.source.uri)  # apt would only point at file: packages
        stanza = {"Types": "deb", "URIs": uri, "Suites": self.suite, "Components": "main"}
        stanza |= {name: self.source.options[name] for name in CARRIED_OPTIONS if name in self.source.options}
        if not self.source.signed_by and Path(DEFAULT_KEYRING).exists():
            stanza["signed-by"] = DEFAULT_KEYRING
        text = "".join(f"{name}: {value}\n" for name, value in stanza.items())
        (self.room / "sources" / "debian.sources").write_text(text)
        (self.room / "apt.conf").write_text(self._configuration())

    def _configuration(self) -> str:
        # Only Acquire:: is taken from the machine. Its hooks are not: docker-clean, for one, empties
        # the system's package cache after every update, wherever that update was.
        dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, timeout=60, check=False)
        machine = [line for line in dump.stdout.splitlines() if line.startswith("Acquire::")]
        own = {
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": f"{self.room}/empty",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{self.room}/sources",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": f"{self.room}/empty",
            "Dir::State": f"{self.room}/state",
            "Dir::State::status": f"{self.room}/status",
            "Dir::Cache": f"{self.room}/cache",
            "Dir::Log": f"{self.room}/log",
            "APT::Architecture": ARCHITECTURE,
            "APT::Architectures::": ARCHITECTURE,
            "APT::Sandbox::User": "",
            "APT::Install-Recommends": "false",
            "APT::Update::Error-Mode": "any",
            "Debug::NoLocking": "true",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::http::Timeout": "30",
            "Acquire::https::Timeout": "30",
        }
        return "\n".join([*machine, *(f'{name} "{value}";' for name, value in own.items())]) + "\n"

    def run(self, *arguments: str, timeout: float) -> str:
        """One apt-get. Raises `FetchFailed` with apt's own first error."""
        return _run(["apt-get", "-q", *arguments], timeout=timeout, cwd=self.room, env=self._environment())

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[str]:
        with log.open("w") as output:
            return subprocess.Popen(
                ["apt-get", "-q", *arguments],
                cwd=self.room,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "APT_CONFIG": f"{self.room}/apt.conf",
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
        }


def _run(argv: Sequence[str], *, timeout: float, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            umask=0o022,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchFailed(f"{argv[0]} did not finish within {timeout:.0f} s") from error
    except OSError as error:
        raise FetchFailed(f"{argv[0]}: {error.strerror}") from error
    if done.returncode:
        raise FetchFailed(_last_word(done.stdout) or f"{argv[0]} ended with status {done.returncode}")
    return done.stdout


def _last_word(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(E|Err|W|dpkg-deb: error):?", line)]
    return (errors or lines or [""])[0]


# ----------------------------------------------------------------------------------------- the tree


@dataclass(frozen=True, kw_only=True)
class Tree:
    """An unpacked set of packages that runs in place."""

    root: Path

    @property
    def record(self) -> dict[str, object]:
        """What `versions.json` says: recipe, suite, fetched_at, packages; empty if there is none."""
        try:
            found = json.loads((self.root.parent / "versions.json").read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def versions(self) -> dict[str, str]:
        packages = self.record.get("packages")
        return {str(k): str(v) for k, v in packages.items()} if isinstance(packages, dict) else {}


def tree_command(tree: Tree, program: str) -> list[str]:
    """The words that run `program` (a path inside the tree) with the tree's own libraries."""
    root = tree.root
    return [str(root / LOADER), "--library-path", str(root / LIBRARIES), str(root / program)]


@functools.cache
def _root_can_step_down() -> bool:
    done = subprocess.run([*_STEP_DOWN, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False)
    return done.returncode == 0


_STEP_DOWN = ("unshare", "-U", f"--map-user={NOBODY}", f"--map-group={NOBODY}", "--")


def unprivileged() -> list[str]:
    """The words to put before a program so that it does not run as root; none for any other user.

    A user namespace that maps our own root to `nobody`: the program sees itself as nobody, has no
    privilege, and still reads and writes what root owns, 0700 directories included, with no chown.
    Raises `Unavailable` where root may not make one (some containers).
    """
    if os.geteuid() != 0:
        return []
    if not shutil.which("unshare") or not _root_can_step_down():
        raise Unavailable(
            "root may not make a user namespace here, and the embedded Postgres and Asterisk do not run as root: run trunkline as an ordinary user"
        )
    return list(_STEP_DOWN)


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "trunkline"


def find(cache: Path | None = None) -> Tree | None:
    """The newest good tree, whatever its recipe; fetches nothing."""
    root = ((cache or cache_directory()) / "asterisk").resolve() / "root"
    tree = Tree(root=root)
    return tree if tree.record and (root / LOADER).exists() else None


def provide(
    *,
    refresh: bool = False,
    cache: Path | None = None,
    machine: Machine | None = None,
    build: Callable[[Source, Path], Mapping[str, str]] | None = None,
) -> Tree:
    """A tree with Asterisk and SIPp; the one in the cache unless there is none or `refresh` asks.

    `build(mirror, directory)` fills `directory/root` and returns the versions; it is an argument for
    the tests. Safe when several processes call it at once: one builds, the others wait and use it.
    Raises `Unavailable` when there is no tree and none can be had.
    """
    cache = cache or cache_directory()
    before = find(cache)
    if before and before.record.get("recipe") == RECIPE and not refresh:
        return before
    try:
        mirror = (machine or Machine()).debian_mirror()
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / "asterisk.lock"):
            now = find(cache)
            if now and now.root != (before.root if before else None) and now.record.get("recipe") == RECIPE:
                return now  # somebody else has built it while we waited
            return _build_and_publish(mirror, cache, build or build_tree)
    except (FetchFailed, Unavailable, OSError) as error:
        if before:
            _say(f"A new Asterisk could not be fetched ({error}).")
            _say(f"Using the one fetched at {before.record.get('fetched_at')}: {before.versions.get('asterisk')}.")
            return before
        if isinstance(error, Unavailable):
            raise
        raise Unavailable(
            f"Asterisk could not be fetched from your Debian mirror ({error}): try again when it answers, or {OWN_ASTERISK}"
        ) from error


def _build_and_publish(mirror: Source, cache: Path, build: Callable[[Source, Path], Mapping[str, str]]) -> Tree:
    for left_over in cache.glob("building-*"):  # of a process that was killed; we hold the lock
        shutil.rmtree(left_over, ignore_errors=True)
    building = Path(tempfile.mkdtemp(prefix="building-", dir=cache))
    building.chmod(0o755)
    try:
        versions = build(mirror, building)
        now = datetime.now(UTC)
        record = {
            "recipe": RECIPE,
            "suite": SUITE,
            "fetched_at": now.isoformat(timespec="seconds"),
            "packages": versions,
        }
        (building / "versions.json").write_text(json.dumps(record, indent=1, sort_keys=True) + "\n")
        final = cache / f"asterisk-{now:%Y%m%dT%H%M%S}-{building.name.removeprefix('building-')}"
        building.rename(final)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    previous = (cache / "asterisk").resolve()
    link = cache / f"link-{final.name}"
    link.symlink_to(final.name)
    link.replace(cache / "asterisk")
    for old in cache.glob("asterisk-*"):
        if old not in (final, previous):
            shutil.rmtree(old, ignore_errors=True)
    return Tree(root=final.resolve() / "root")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time; the kernel lets go of the lock when its holder dies."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    with path.open("a") as file:
        waited = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FetchFailed(f"another process holds {path}") from None
                if not waited:
                    _say("Another process is fetching Asterisk; waiting for it ...")
                waited = True
                time.sleep(0.2)
        yield


def build_tree(mirror: Source, directory: Path) -> dict[str, str]:
    """Fetch and unpack `PACKAGES` into `directory/root`; package → version. About ten seconds."""
    started = time.monotonic()
    room = directory / "apt"
    apt = PrivateApt(room=room, source=mirror, suite=SUITE)
    _say("Asking your Debian mirror for Asterisk and SIPp ...")
    apt.run("update", timeout=UPDATE_TIMEOUT)
    install = ("-y", "--no-install-recommends", "install", *PACKAGES)
    total = sum(
        int(size)
        for size in re.findall(r"^'\S+' \S+ (\d+) ", apt.run("--print-uris", *install, timeout=60), re.MULTILINE)
    )
    _say(f"Fetching Asterisk and SIPp from your Debian mirror (about {total / 1e6:.0f} MB) ...")
    _download(apt, install, total)
    debs = sorted((room / "cache/archives").glob("*.deb"))
    if not debs:
        raise FetchFailed("apt fetched nothing")
    _say(f"Unpacking {len(debs)} packages ...")
    root = directory / "root"
    versions = {}
    for deb in debs:
        _run(["dpkg-deb", "-x", str(deb), str(root)], timeout=UNPACK_TIMEOUT, cwd=directory)
        name, version, _ = deb.name.split("_", 2)
        versions[name] = unquote(version)
        deb.unlink()
    shutil.rmtree(room)
    _make_harmless_and_readable(root)
    _say(
        f"Asterisk {versions['asterisk']} and SIPp {versions['sip-tester']} are ready ({time.monotonic() - started:.0f} s)."
    )
    return versions


def _download(apt: PrivateApt, install: Sequence[str], total: int) -> None:
    log = apt.room / "download.log"
    deadline = time.monotonic() + DOWNLOAD_TIMEOUT
    with apt.start("--download-only", *install, log=log) as process:
        try:
            while time.monotonic() < deadline:
                try:
                    if process.wait(PROGRESS_EVERY):
                        raise FetchFailed(_last_word(log.read_text(errors="replace")) or "apt-get failed")
                    return
                except subprocess.TimeoutExpired:
                    there = sum(f.stat().st_size for f in (apt.room / "cache/archives").rglob("*.deb"))
                    _say(f"  {there / 1e6:.0f} of {total / 1e6:.0f} MB")
            raise FetchFailed(f"the download did not finish within {DOWNLOAD_TIMEOUT} s")
        finally:
            process.kill()


def _make_harmless_and_readable(root: Path) -> None:
    """No set-uid program may lie in a cache; and everything can be read whoever runs it."""
    for folder, _, files in os.walk(root):
        for path in (folder, *(os.path.join(folder, name) for name in files)):
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                continue
            wanted = (stat.S_IMODE(mode) & 0o777) | (0o555 if stat.S_ISDIR(mode) else 0o444) | 0o200
            if wanted != stat.S_IMODE(mode):
                os.chmod(path, wanted)


def fetch_package(name: str, into: Path, *, machine: Machine | None = None) -> Path:
    """Unpack one package of the machine's own suite, without what it depends on, under `into`.

    Raises `Unavailable` when that is not possible.
    """
    machine = machine or Machine()
    mirror = machine.debian_mirror()
    suite = next(
        (s for s in mirror.suites if not s.endswith(("-updates", "-backports"))),
        machine.describe().get("VERSION_CODENAME", SUITE),
    )
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=into) as room:
        try:
            apt = PrivateApt(room=Path(room), source=mirror, suite=suite)
            apt.run("update", timeout=UPDATE_TIMEOUT)
            apt.run("download", name, timeout=DOWNLOAD_TIMEOUT)
            for deb in Path(room).glob("*.deb"):
                _run(["dpkg-deb", "-x", str(deb), str(into)], timeout=UNPACK_TIMEOUT, cwd=into)
        except FetchFailed as error:
            raise Unavailable(f"{name} could not be fetched from your Debian mirror ({error})") from error
    return into


def fetch_programs(names: Sequence[str], into: Path, *, machine: Machine | None = None) -> Tree:
    """Packages of `SUITE` with all that they depend on, unpacked under `into/root`; `tree_command` runs what is in them.

    Raises `Unavailable` when that is not possible.
    """
    mirror = (machine or Machine()).debian_mirror()
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="apt-", dir=into) as room:
        try:
            apt = PrivateApt(room=Path(room), source=mirror, suite=SUITE)
            apt.run("update", timeout=UPDATE_TIMEOUT)
            words = ("-y", "--no-install-recommends", "--download-only", "install", *names)
            apt.run(*words, timeout=DOWNLOAD_TIMEOUT)
            for deb in sorted((Path(room) / "cache/archives").glob("*.deb")):
                _run(["dpkg-deb", "-x", str(deb), str(into / "root")], timeout=UNPACK_TIMEOUT, cwd=into)
        except FetchFailed as error:
            raise Unavailable(f"{', '.join(names)} could not be fetched from your Debian mirror ({error})") from error
    _make_harmless_and_readable(into / "root")
    return Tree(root=into / "root")


def main(arguments: Sequence[str]) -> int:
    """`python -m deploy.debian [--refresh]`: have the tree, and print where it is."""
    try:
        tree = provide(refresh="--refresh" in arguments)
    except TrunklineError as error:
        _say(str(error))
        return 1
    print(tree.root)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
