"""A container's usual network: IPv4 alone, while its hosts file names ::1 for localhost all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NETWORK = """
set -e
ip link set lo up
ip link add eth0 type veth peer name other
for off in /proc/sys/net/ipv6/conf/*/disable_ipv6; do
    [ ! -e $off ] || echo 1 > $off
done
ip addr add 10.231.1.1/24 dev eth0
ip link set eth0 up
mount --bind "$0" /etc/hosts
exec "$@"
"""
PROGRAM = """
import sys
import anyio
from riteraft_core import Config, open_node

class Echo:
    def apply(self, command): return command
    def snapshot(self): return b""
    def restore(self, snapshot): pass

async def main():
    config = Config(
        cluster="c", address="localhost:7001", transport=sys.argv[1], storage="memory", bootstrap=True,
    )
    async with open_node(config, Echo()) as node:
        print(await node.propose(b"served", timeout=20))

anyio.run(main)
"""


@pytest.mark.parametrize("transport", ["tcp", "grpc"])
@pytest.mark.usefixtures("namespaces")  # only for what it asks of the machine
def test_a_node_listens_on_localhost_where_it_also_names_an_address_of_ipv6(tmp_path: Path, transport: str) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("127.0.0.1 localhost\n::1 localhost\n")
    node = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", NETWORK, hosts, sys.executable, "-c", PROGRAM, transport],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (node.stdout, node.returncode) == ("b'served'\n", 0), node.stderr
