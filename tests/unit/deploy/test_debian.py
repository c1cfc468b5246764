"""The choice of the mirror, and a cache that two processes and a dead network cannot spoil."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from deploy import debian
from deploy.debian import Machine, Source, choose_mirror, find, parse_deb822, parse_one_line, provide, read_sources
from models.errors import Unavailable

ROOT = Path(__file__).parents[3]

DEB822 = """\
# the image's own
Types: deb deb-src
URIs: http://mirror.example/debian http://second.example/debian/
# a comment in between
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Enabled: no
Types: deb
URIs: http://switched-off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://own-key.example/debian
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/nodesource.gpg] https://node.example/debian bookworm main
deb http://old.example/debian bookworm main contrib # ours
deb http://old.example/debian-security bookworm-security main
"""


def machine(
    tmp_path: Path, release: str = "ID=debian\nVERSION_CODENAME=bookworm\n", architecture: str = "amd64"
) -> Machine:
    (tmp_path / "os-release").write_text(release)
    parts = tmp_path / "apt/sources.list.d"
    parts.mkdir(parents=True, exist_ok=True)
    (parts / "debian.sources").write_text(DEB822)
    return Machine(os_release=tmp_path / "os-release", apt=tmp_path / "apt", architecture=architecture)


def fake_build(version: str = "22.1") -> Callable[[Source, Path], Mapping[str, str]]:
    def build(mirror: Source, directory: Path) -> dict[str, str]:
        loader = directory / "root" / debian.LOADER
        loader.parent.mkdir(parents=True)
        loader.touch()
        return {"asterisk": version}

    return build


def no_network(mirror: Source, directory: Path) -> dict[str, str]:
    raise debian.FetchFailed("E: the mirror does not answer")


@pytest.fixture(autouse=True)
def _tools_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")


# ------------------------------------------------------------------------------------ apt's sources


def test_every_address_of_every_enabled_binary_stanza_is_read() -> None:
    found = parse_deb822(DEB822)
    assert [source.uri for source in found] == [
        "http://mirror.example/debian",
        "http://second.example/debian/",
        "http://mirror.example/debian-security",
        "https://own-key.example/debian",
    ]
    assert found[0].suites == ("bookworm", "bookworm-updates")
    assert found[0].components == ("main", "contrib")
    assert found[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert "BEGIN PGP" in found[3].signed_by


def test_one_line_entries_are_read_with_their_options() -> None:
    found = parse_one_line(ONE_LINE)
    assert [source.uri for source in found] == [
        "https://node.example/debian",
        "http://old.example/debian",
        "http://old.example/debian-security",
    ]
    assert found[0].signed_by == "/usr/share/keyrings/nodesource.gpg"
    assert found[1].components == ("main", "contrib")


def test_sources_are_read_in_the_order_of_apt_and_disabled_files_are_not(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://first.example/debian bookworm main\n")
    (parts / "b.list").write_text("deb http://third.example/debian bookworm main\n")
    (parts / "a.sources").write_text("Types: deb\nURIs: http://second.example/debian\nSuites: sid\nComponents: main\n")
    (parts / "c.list.save").write_text("deb http://never.example/debian bookworm main\n")
    hosts = [source.uri.split("/")[2] for source in read_sources(tmp_path)]
    assert hosts == ["first.example", "second.example", "third.example"]


def source(uri: str, suite: str = "bookworm", signed_by: str = "", component: str = "main") -> Source:
    return Source(
        uri=uri, suites=(suite,), components=(component,), options={"signed-by": signed_by} if signed_by else {}
    )


def test_the_mirror_checked_by_debians_keyring_comes_first() -> None:
    ours = source("mirror+file:///etc/apt/mirrors/list", signed_by="/usr/share/keyrings/debian-archive-keyring.gpg")
    assert choose_mirror([source("http://other.example/debian"), ours], "bookworm") == ours


def test_a_mirror_without_a_key_is_taken_by_its_path() -> None:
    ours = source("http://mirror.example/debian/")
    assert choose_mirror([source("http://x.example/debian-remote"), ours], "bookworm") == ours


@pytest.mark.parametrize(
    "foreign",
    [
        source("https://deb.nodesource.example/node_20.x", "nodistro", "/usr/share/keyrings/nodesource.gpg"),
        source("https://packages.example/debian", "bookworm", "/usr/share/keyrings/vendor.gpg"),
        source("https://docker.example/linux/debian", "bookworm", component="stable"),
        source("http://apt.example/pub/repos/apt", "bookworm-pgdg"),
        source("http://apt.example/php", "bookworm"),
        source("http://mirror.example/debian-security", "bookworm-security"),
    ],
    ids=lambda s: s.uri,
)
def test_what_is_not_debians_main_archive_is_never_taken(foreign: Source) -> None:
    assert choose_mirror([foreign], "bookworm") is None


def test_the_machines_own_mirror_is_found(tmp_path: Path) -> None:
    assert machine(tmp_path).debian_mirror().uri == "http://mirror.example/debian"


@pytest.mark.parametrize(
    ("release", "architecture", "said"),
    [
        ('ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 24.04 LTS"\n', "amd64", "Ubuntu 24.04 LTS"),
        ("ID=fedora\n", "amd64", "Debian's packages"),
        ("ID=debian\nVERSION_CODENAME=bookworm\n", "arm64", "arm64"),
    ],
)
def test_another_system_is_told_what_to_provide(tmp_path: Path, release: str, architecture: str, said: str) -> None:
    elsewhere = machine(tmp_path, release, architecture)
    with pytest.raises(Unavailable, match="TRUNKLINE_ASTERISK_NODES") as refused:
        provide(cache=tmp_path / "cache", machine=elsewhere, build=fake_build())
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------------------------------ the cache


def test_the_second_use_builds_nothing_and_needs_no_debian(tmp_path: Path) -> None:
    first = provide(cache=tmp_path / "cache", machine=machine(tmp_path), build=fake_build())
    nowhere = Machine(os_release=tmp_path / "none", apt=tmp_path / "none")
    assert provide(cache=tmp_path / "cache", machine=nowhere, build=no_network) == first
    assert first.versions == {"asterisk": "22.1"}
    assert first.record["suite"] == "sid"


def test_without_a_network_and_without_a_tree_one_line_says_what_to_provide(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="TRUNKLINE_ASTERISK_NODES") as failed:
        provide(cache=tmp_path / "cache", machine=machine(tmp_path), build=no_network)
    assert "the mirror does not answer" in str(failed.value)
    assert "\n" not in str(failed.value)


def test_without_a_network_the_last_good_tree_is_used_and_that_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = tmp_path / "cache"
    good = provide(cache=cache, machine=machine(tmp_path), build=fake_build())
    assert provide(refresh=True, cache=cache, machine=machine(tmp_path), build=no_network) == good
    said = capsys.readouterr().err
    assert "the mirror does not answer" in said
    assert "22.1" in said


def test_a_tree_of_an_older_recipe_is_replaced_and_kept_for_who_runs_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, here = tmp_path / "cache", machine(tmp_path)
    trees = []
    for recipe in ("a", "b", "c"):
        monkeypatch.setattr(debian, "RECIPE", recipe)
        trees.append(provide(cache=cache, machine=here, build=fake_build(recipe)))
    assert [tree.root.exists() for tree in trees] == [False, True, True]
    assert find(cache) == trees[2]


def test_a_build_that_was_cut_off_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "building-dead/root").mkdir(parents=True)
    tree = provide(cache=cache, machine=machine(tmp_path), build=fake_build())
    assert sorted(path.name for path in cache.glob("building-*")) == []
    assert tree.root.exists()


def test_two_at_once_build_once(tmp_path: Path) -> None:
    cache, here = tmp_path / "cache", machine(tmp_path)
    building, go_on = threading.Event(), threading.Event()
    builds: list[int] = []

    def slow(mirror: Source, directory: Path) -> Mapping[str, str]:
        builds.append(1)
        building.set()
        assert go_on.wait(30)
        return fake_build()(mirror, directory)

    got: list[debian.Tree] = []
    first = threading.Thread(target=lambda: got.append(provide(cache=cache, machine=here, build=slow)))
    first.start()
    assert building.wait(30)
    # Another process, so that the lock is really between processes; it says so when it has to wait.
    program = (
        "import sys; from pathlib import Path; from deploy.debian import provide, Machine\n"
        "c = Path(sys.argv[1]); m = Machine(os_release=c.parent / 'os-release', apt=c.parent / 'apt', architecture='amd64')\n"
        "def never(mirror, directory): raise SystemExit('built twice')\n"
        "print(provide(cache=c, machine=m, build=never).root)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(cache)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as second:
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        go_on.set()
        output, errors = second.communicate(timeout=60)
    first.join(30)
    assert second.returncode == 0, errors
    assert output.strip() == str(got[0].root)
    assert builds == [1]


# ------------------------------------------------------------------------------------------ the rest


def test_programs_run_through_the_trees_own_loader(tmp_path: Path) -> None:
    words = debian.tree_command(debian.Tree(root=tmp_path), "usr/sbin/asterisk")
    assert words[0] == f"{tmp_path}/usr/lib64/ld-linux-x86-64.so.2"
    assert words[-1] == f"{tmp_path}/usr/sbin/asterisk"


def test_set_uid_programs_do_not_stay_in_the_cache(tmp_path: Path) -> None:
    program = tmp_path / "su"
    program.touch()
    program.chmod(0o4750)
    debian._make_harmless_and_readable(tmp_path)
    assert program.stat().st_mode & 0o7777 == 0o754


def test_nothing_is_put_before_a_program_of_an_ordinary_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert debian.unprivileged() == []


def test_setup_runs_before_any_package_is_installed() -> None:
    subprocess.run([sys.executable, "-S", "-c", "import deploy.bootstrap"], cwd=ROOT, check=True, timeout=60)
