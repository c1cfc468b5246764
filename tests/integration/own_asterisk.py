"""An Asterisk that somebody has set up by hand: Debian's packaged configuration and what the exported README says."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.debian import LIBRARIES, Tree, tree_command, unprivileged
from deploy.embedded.asterisk import SOUNDS
from deploy.part import Part, accepts, running

DIRECTORIES = """\
[directories]
astetcdir => {home}/etc
astmoddir => {tree}/{libraries}/asterisk/modules
astdatadir => {home}/data
astagidir => {home}/data/agi-bin
astkeydir => {home}/keys
astcachedir => {home}/cache
astvarlibdir => {home}/lib
astdbdir => {home}/lib
astspooldir => {home}/spool
astlogdir => {home}/log
astrundir => {home}
astsbindir => {home}
"""
"""What a package that is installed has compiled in, and one that is only unpacked has not."""


@dataclass(frozen=True, kw_only=True)
class OwnAsterisk:
    """Lives in `home`; includes the files in `exported`."""

    tree: Tree
    home: Path
    exported: Path
    ami_port: int

    def set_up(self) -> None:
        """What a person does who has installed the package and reads the exported README."""
        for name in ("keys", "cache", "spool", "log", "lib", "data/sounds", "data/agi-bin", "data/moh"):
            (self.home / name).mkdir(parents=True, exist_ok=True)
        (self.home / "data/sounds/en").symlink_to(self.tree.root / SOUNDS)
        (self.home / "data/documentation").symlink_to(self.tree.root / "usr/share/asterisk/documentation")
        shutil.copytree(self.tree.root / "etc/asterisk", self.home / "etc")
        asterisk_conf = self.home / "etc/asterisk.conf"
        options = asterisk_conf.read_text().partition("[options]")[2]
        directories = DIRECTORIES.format(home=self.home, tree=self.tree.root, libraries=LIBRARIES)
        asterisk_conf.write_text(f"{directories}\n[options]{options}")
        self._follow((self.exported / "README.txt").read_text())

    def _follow(self, readme: str) -> None:
        steps = re.split(r"^\d\. ", readme, flags=re.MULTILINE)
        includes = re.findall(r'^    (\S+\.conf) +(#include ".+")$', steps[1], re.MULTILINE)
        assert len(includes) > 5, readme
        for name, line in includes:
            with (self.home / "etc" / name).open("a") as file:
                file.write(f"\n{line}\n")
        modules = self.home / "etc/modules.conf"
        for line in re.findall(r"^    (noload => \S+)$", steps[2], re.MULTILINE):
            modules.write_text(re.sub(rf"^{line}$", "", modules.read_text(), flags=re.MULTILINE))

    @contextmanager
    def running(self, **environment: str) -> Iterator[None]:
        words = [*unprivileged(), *tree_command(self.tree, "usr/sbin/asterisk")]
        part = Part(
            name="own-asterisk",
            argv=[*words, "-f", "-n", "-C", str(self.home / "etc/asterisk.conf")],
            env=environment,
            log=self.home / "asterisk.log",
            cwd=self.home,
            ready=lambda: accepts(self.ami_port),
            stop_timeout=15,
        )
        with running(part):
            yield

    @contextmanager
    def broken(self, name: str, right: str, wrong: str) -> Iterator[None]:
        """Until the block ends one exported file says something else."""
        file = self.exported / name
        text = file.read_text()
        assert right in text, f"{right!r} is in {name}"
        file.write_text(text.replace(right, wrong))
        try:
            yield
        finally:
            file.write_text(text)
