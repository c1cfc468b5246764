"""Three machines on this one: trunkline's own, a router with NAT, and a carrier's, each a network namespace.

    inside                             router                            outside
    10.77.0.2      (private)    ──  10.77.0.1 ┐
    198.51.100.2   (public)     ── 198.51.100.1 ┴ 203.0.113.1   ──   203.0.113.10

The router puts its own address in place of the private one, forwards `SIP_PORT` and `RTP_PORTS` to it, and lets through
nothing else that was not asked for from inside. To the public address of the same machine it only routes.

All three belong to one user namespace, so no right on this machine is needed and nothing outside of them sees an address, a
route or a rule of theirs. They are gone when the processes in them are: their holders read a pipe of ours to its end.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from deploy.debian import Tree, cache_directory, fetch_programs, tree_command
from models.addresses import RtpPorts
from models.errors import Unavailable

PRIVATE, PUBLIC, ROUTER, CARRIER = "10.77.0.2", "198.51.100.2", "203.0.113.1", "203.0.113.10"
SIP_PORT = 5060
RTP_PORTS = RtpPorts(first=16_000, last=16_099)

INSIDE, OUTSIDE = "inside", "outside"
_ROUTER = "router"

_RULES = f"""
table ip router {{
  counter refused {{ }}
  chain arriving {{
    type nat hook prerouting priority dstnat
    iifname "outside" ip daddr {ROUTER} udp dport {{ {SIP_PORT}, {RTP_PORTS} }} dnat to {PRIVATE}
  }}
  chain passing {{
    type filter hook forward priority filter; policy drop
    ct state established,related accept
    ct status dnat accept
    iifname "inside" accept
    ip daddr {PUBLIC} accept
    counter name refused
  }}
  chain leaving {{
    type nat hook postrouting priority srcnat
    oifname "outside" ip saddr {PRIVATE} masquerade
  }}
}}
"""


class NoNamespaces(Exception):
    """This machine does not let us make them; says why."""


class Network:
    """The three, for the length of a `with` block. Raises `NoNamespaces` where they cannot be made."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[str]] = {}
        self._ip, self._nft = _tools()

    def __enter__(self) -> Self:
        try:
            self._hold(_ROUTER, ["unshare", "--user", "--map-root-user", "--net"])
            for name in (INSIDE, OUTSIDE):
                self._hold(name, [*self.words(_ROUTER), "unshare", "--net"])
            self._connect()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Whatever is still in them is killed."""
        ours = {_namespace(holder.pid) for holder in self._holders.values()} - {None, _namespace(os.getpid())}
        left = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        for pid in left:
            if _namespace(pid) in ours:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for holder in self._holders.values():
            holder.communicate()
        self._holders.clear()

    def words(self, name: str) -> list[str]:
        """To be put before a program that is to run there."""
        target = str(self._holders[name].pid)
        return ["nsenter", "--target", target, "--user", "--net", "--preserve-credentials", "--"]

    def refused(self) -> int:
        """Packets from outside that the router has not let through so far."""
        listed = json.loads(self._run(_ROUTER, [*self._nft, "-j", "list", "counter", "ip", "router", "refused"]))
        return int(next(item["counter"]["packets"] for item in listed["nftables"] if "counter" in item))

    def _hold(self, name: str, words: Sequence[str]) -> None:
        command = [*words, "sh", "-c", "echo here; exec cat"]
        pipe = subprocess.PIPE
        try:
            holder = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        except FileNotFoundError as error:
            raise NoNamespaces(f"there is no {error.filename} here") from error
        self._holders[name] = holder
        assert holder.stdout is not None
        if holder.stdout.readline() != "here\n":
            _, said = holder.communicate()
            raise NoNamespaces(f"no namespace of its own for {name}: {said.strip() or holder.returncode}")

    def _connect(self) -> None:
        for name, address in ((INSIDE, "10.77.0.1/24"), (OUTSIDE, f"{ROUTER}/24")):
            peer = str(self._holders[name].pid)
            self._configure(_ROUTER, "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", peer)
            self._configure(_ROUTER, "address", "add", address, "dev", name)
            self._configure(_ROUTER, "link", "set", name, "up")
            self._configure(name, "link", "set", "lo", "up")
            self._configure(name, "link", "set", "eth0", "up")
        self._configure(_ROUTER, "address", "add", "198.51.100.1/24", "dev", INSIDE)
        self._configure(INSIDE, "address", "add", f"{PRIVATE}/24", "dev", "eth0")
        self._configure(INSIDE, "address", "add", f"{PUBLIC}/24", "dev", "eth0")
        self._configure(INSIDE, "route", "add", "default", "via", "10.77.0.1")
        self._configure(OUTSIDE, "address", "add", f"{CARRIER}/24", "dev", "eth0")
        self._configure(OUTSIDE, "route", "add", "default", "via", ROUTER)
        self._run(_ROUTER, ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
        self._run(_ROUTER, [*self._nft, "-f", "-"], text=_RULES)

    def _configure(self, name: str, *words: str) -> None:
        self._run(name, [*self._ip, *words])

    def _run(self, name: str, words: Sequence[str], text: str = "") -> str:
        command = [*self.words(name), *words]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise NoNamespaces(f"{' '.join(words[-6:])}: {done.stderr.strip() or done.returncode}")
        return done.stdout


def _namespace(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return None


def _tools() -> tuple[list[str], list[str]]:
    """The words that run `ip` and `nft`: the machine's own, else Debian's, fetched once."""
    found = {name: shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") for name in ("ip", "nft")}
    if found["ip"] and found["nft"]:
        return [found["ip"]], [found["nft"]]
    kept = cache_directory() / "network-tools"
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="network-tools-", dir=kept.parent) as room:
            try:
                fetch_programs(("iproute2", "nftables"), Path(room) / "tools")
            except Unavailable as error:
                raise NoNamespaces(str(error)) from error
            with suppress(OSError):  # somebody else was faster
                (Path(room) / "tools").rename(kept)
    tree = Tree(root=kept / "root")
    return tree_command(tree, "usr/bin/ip"), tree_command(tree, "usr/sbin/nft")
