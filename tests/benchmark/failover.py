"""How long nobody is answered when the leader is killed."""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

from rich.console import Console

from .cluster import Cluster, RiteraftSettings, riteraft_cluster
from .options import Options
from .process import PATIENCE, NodeProcess, until
from .progress import progress
from .verdict import verdict

IN_FLIGHT = 64
ELECTION_TIMEOUT = 1.0
"""The config's default, which the nodes run with."""
TARGET = 1.5
"""In election timeouts, for the median."""
LOOK_SECONDS = 0.02


def one_kill(cluster: Cluster, in_flight: int, choice: random.Random) -> dict[str, Any]:
    """Kill the leader under load and start it again; return how long the writer on another node waited.

    That is the time from the kill to the end of the longest pause after it. Not to the next acknowledgement of all:
    what the leader had sent before it died still arrives, and its death is not felt before that.
    """
    leader = cluster.at("leader")
    writer = choice.choice([node for node in cluster.nodes if node is not leader])
    writer.begin(in_flight)
    until(lambda: bool(writer.ask("read")["acknowledged"] > 4 * in_flight), "writes before the kill")
    view = leader.ask("status")
    if view["role"] != "leader":
        raise SystemExit("the leader changed without a kill: the machine is too busy to measure this")

    writer.ask("read")
    killed_at = time.monotonic()
    leader.kill()
    waited = _longest_pause(writer, 2 * in_flight, killed_at)
    ended = writer.ask("end")
    terms = max(node.ask("status")["term"] for node in cluster.nodes if node is not leader) - view["term"]
    leader.start()
    leader.ask("barrier", timeout=PATIENCE)
    cluster.wait_level()
    # More than one term is an election that nobody won at the first try.
    return {"seconds": waited, "terms": terms, "failed": ended["failed"]}


def _longest_pause(writer: NodeProcess, enough: int, since: float) -> float:
    """Watch until there were `enough` writes more, which is more than were in flight; return when the pause ended."""
    longest = end = 0.0
    wanted: int | None = None
    deadline = since + PATIENCE
    while True:
        view = writer.ask("read")
        began, ended = view["pause"]
        if ended > since and ended - began > longest:
            longest, end = ended - began, ended - since

        if wanted is None:
            wanted = view["acknowledged"] + enough
        elif view["acknowledged"] >= wanted:
            return end

        if time.monotonic() > deadline:
            raise SystemExit(f"no write was acknowledged for {PATIENCE:g} s after the leader was killed")

        time.sleep(LOOK_SECONDS)


def run(options: Options, console: Console) -> dict[str, Any]:
    """Kill the leader `amount` times."""
    in_flight = options.in_flight(IN_FLIGHT)
    seed = random.SystemRandom().randrange(2**32)
    choice = random.Random(seed)
    settings = RiteraftSettings(options.loop, options.storage, options.consensus, options.transport)
    kills = []
    with (
        riteraft_cluster(options.data_dir, settings) as cluster,
        progress(console, "killing the leader", options.amount) as advance,
    ):
        for _ in range(options.amount):
            kills.append(one_kill(cluster, in_flight, choice))
            advance(len(kills), f"{kills[-1]['seconds']:.2f} s, {kills[-1]['terms']} terms")

    waits = sorted(kill["seconds"] for kill in kills)
    console.print(f"{len(waits)} kills: {waits[0]:.2f} s to {waits[-1]:.2f} s, mean {statistics.mean(waits):.2f} s")
    what = "from the kill to the next acknowledged write, median, in election timeouts"
    return {
        "in_flight": in_flight,
        "seed": seed,
        "election_timeout": ELECTION_TIMEOUT,
        "kills": kills,
        "verdicts": [verdict(console, what, statistics.median(waits) / ELECTION_TIMEOUT, TARGET)],
    }
