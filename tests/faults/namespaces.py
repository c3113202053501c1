"""Nodes with a network of their own each, on one bridge: the kernel's TCP meets links that lose everything."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.cluster.cluster import NodeProcess

NOBODY = "02:00:00:00:00:fe"
"""A hardware address that no one has: what is sent there is lost, and the sender hears nothing of it."""


def cannot_make_namespaces() -> str | None:
    """Return why there can be no such networks here, or None."""
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"

    if os.geteuid() != 0:
        return "it needs root"

    name = f"riteraft-{secrets.token_hex(3)}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        _ip("netns", "del", name)

    return tried.stderr.strip() or None


class Namespaces:
    """A bridge and a network namespace a node; gone with the block."""

    def __init__(self) -> None:
        self._tag = f"riteraft-{secrets.token_hex(3)}"
        self._hub = f"{self._tag}-hub"
        self._made: list[str] = []
        self._of: dict[str, tuple[str, str]] = {}
        """The namespace and the IP address of a node, by its name."""

    def __enter__(self) -> Namespaces:
        self._add(self._hub)
        _ip("-n", self._hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", self._hub, "link", "set", "bridge", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._made:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)

    def put_before(self, node: NodeProcess) -> None:
        """Give a node its own network; before its first start."""
        number = len(self._of) + 1
        name, address, port = f"{self._tag}-{number}", f"10.231.0.{number}", f"port{number}"
        self._add(name)
        self._of[node.name] = name, address
        _ip("-n", self._hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("-n", self._hub, "link", "set", port, "master", "bridge", "up")
        _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", name, "link", "set", device, "up")

        node.wrapper = ["ip", "netns", "exec", name]
        node.address = f"{address}:{node.address.rpartition(':')[2]}"
        node.settings["security"] = {"insecure": True}

    @contextmanager
    def cut(self, *ways: tuple[NodeProcess, NodeProcess]) -> Iterator[None]:
        """Lose all that goes these ways, until the end of the block; count what was sent again for it."""
        before = {sender.name: (sender, self._sent_again(sender)) for sender, _ in ways}
        for sender, receiver in ways:
            namespace, address = self._of[sender.name][0], self._of[receiver.name][1]
            _ip("-n", namespace, "neigh", "replace", address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

        try:
            yield
        finally:
            for sender, receiver in ways:
                _ip("-n", self._of[sender.name][0], "neigh", "del", self._of[receiver.name][1], "dev", "eth0")

            for sender, count in before.values():
                sender.faults["packets lost"] += self._sent_again(sender) - count

    def _sent_again(self, node: NodeProcess) -> int:
        assert node._process is not None
        lines = re.findall(r"^Tcp: (.*)$", Path(f"/proc/{node._process.pid}/net/snmp").read_text(), re.MULTILINE)
        names, values = (line.split() for line in lines)
        return int(values[names.index("RetransSegs")])

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
