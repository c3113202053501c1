"""memstore: a replicated dict from numbers to names, served over HTTP.

The first node forms the cluster, each further one joins through any member:

    python examples/memstore/main.py --raft-addr 127.0.0.1:7001 --web-server 127.0.0.1:8001
    python examples/memstore/main.py --raft-addr 127.0.0.1:7002 --peer-addr 127.0.0.1:7001 --web-server 127.0.0.1:8002
    curl http://127.0.0.1:8001/put/1/sun
    curl http://127.0.0.1:8002/get/1
    curl http://127.0.0.1:8002/leave

The same command starts a node again after a stop or a crash: its folder knows what it is. Whatever has no option here
is set by a variable, for example RITERAFT_TIMING__ELECTION_TIMEOUT=0.5.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass
from typing import Any

import msgpack
from aiohttp import web

from riteraft_core import (
    CommandRejected,
    Mailbox,
    NodeStopped,
    NotApplied,
    OutcomeUnknown,
    Raft,
    ReadError,
    RiteraftError,
)

logger = logging.getLogger("riteraft")


@dataclass(frozen=True)
class InsertMessage:
    key: int
    value: str

    def encode(self) -> bytes:
        packed: bytes = msgpack.packb(astuple(self))
        return packed

    @classmethod
    def decode(cls, raw: bytes) -> InsertMessage:
        return cls(*msgpack.unpackb(raw))


class HashStore:
    """The state. It needs no lock: plain methods run on the event loop, and so do the handlers below that read it."""

    def __init__(self) -> None:
        self._store: dict[int, str] = {}

    def get(self, key: int) -> str | None:
        return self._store.get(key)

    def apply(self, command: bytes) -> bytes:
        message = InsertMessage.decode(command)
        self._store[message.key] = message.value
        logger.debug("inserted: (%d, %s)", message.key, message.value)
        return message.value.encode()

    def snapshot(self) -> bytes:
        packed: bytes = msgpack.packb(self._store)
        return packed

    def restore(self, snapshot: bytes) -> None:
        # msgpack refuses keys that are not text unless it is told that they are meant.
        self._store = msgpack.unpackb(snapshot, strict_map_key=False)


STORE = web.AppKey("store", HashStore)
MAILBOX = web.AppKey("mailbox", Mailbox)
TIMEOUT = web.AppKey("timeout", float)
routes = web.RouteTableDef()


@routes.get("/put/{id}/{name}")
async def put(request: web.Request) -> web.Response:
    message = InsertMessage(key_of(request), request.match_info["name"])
    answer = await request.app[MAILBOX].send(message.encode(), timeout=request.app[TIMEOUT])
    return web.Response(text=answer.decode())


@routes.get("/get/{id}")
async def get(request: web.Request) -> web.Response:
    key = key_of(request)
    # Without it this node could be behind, and answer with what was true a moment ago.
    await request.app[MAILBOX].read_barrier(timeout=request.app[TIMEOUT])
    name = request.app[STORE].get(key)
    if name is None:
        raise web.HTTPNotFound(text=f"there is no {key}")

    return web.Response(text=name)


@routes.get("/leave")
async def leave(request: web.Request) -> web.Response:
    await request.app[MAILBOX].leave(timeout=request.app[TIMEOUT])
    return web.Response(text="left the cluster")


@routes.get("/status")
async def status(request: web.Request) -> web.Response:
    node = await request.app[MAILBOX].node()
    return web.json_response(asdict(node.status()))


def key_of(request: web.Request) -> int:
    text = request.match_info["id"]
    # What msgpack can hold; refused here, before it is in the log.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 2**63):
        raise web.HTTPBadRequest(text=f"an id is a number from 0 to {2**63 - 1}, not {text}")

    return int(text)


@web.middleware
async def errors_as_statuses(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except CommandRejected as exc:
        raise web.HTTPConflict(text=str(exc)) from exc
    except (NotApplied, ReadError, NodeStopped) as exc:  # nothing happened: try again, or ask another node
        raise web.HTTPServiceUnavailable(text=str(exc)) from exc
    except OutcomeUnknown as exc:  # it may have happened, or happen yet: look first
        raise web.HTTPGatewayTimeout(text=str(exc)) from exc


def end_with_stdin() -> None:
    """End this process, whatever it is doing, when the other end of its stdin closes: the one who started it died."""
    while os.read(0, 4096):
        pass

    os._exit(1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A replicated dict from numbers to names, served over HTTP.")
    parser.add_argument("--raft-addr", required=True, metavar="HOST:PORT", help="listen here for the other nodes")
    parser.add_argument("--peer-addr", metavar="HOST:PORT", help="join through this member; else form a new cluster")
    parser.add_argument("--web-server", metavar="HOST:PORT", help="serve HTTP here")
    parser.add_argument("--data-dir", metavar="FOLDER", help="the node's folder; else riteraft-data/HOST_PORT")
    # Long enough for an election: a client that waited for longer is better told that something is wrong.
    parser.add_argument("--timeout", type=float, default=10.0, metavar="SECONDS", help="for each request")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    parser.add_argument("--end-with-stdin", action="store_true", help="end when stdin closes (for a parent process)")
    return parser.parse_args()


async def main() -> None:
    options = parse_arguments()
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if options.end_with_stdin:
        threading.Thread(target=end_with_stdin, daemon=True).start()

    # A node that serves sees to Ctrl-C and SIGTERM itself. Before that asyncio does on Ctrl-C, and so on SIGTERM.
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)

    store = HashStore()
    settings: dict[str, Any] = {"data_dir": options.data_dir} if options.data_dir else {}
    raft = Raft(options.raft_addr, store, logger, **settings)
    mailbox = raft.mailbox()

    tasks: list[Awaitable[None]] = []
    if options.peer_addr:
        tasks.append(raft.join(options.peer_addr))
    else:
        tasks.append(raft.lead())

    runner = None
    if options.web_server:
        app = web.Application(middlewares=[errors_as_statuses])
        app.add_routes(routes)
        app[STORE] = store
        app[MAILBOX] = mailbox
        app[TIMEOUT] = options.timeout

        host, _, port = options.web_server.rpartition(":")
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        tasks.append(web.TCPSite(runner, host.strip("[]"), int(port)).start())

    try:
        await asyncio.gather(*tasks)
    finally:
        if runner:
            await runner.cleanup()


if __name__ == "__main__":
    try:
        with suppress(KeyboardInterrupt, asyncio.CancelledError):
            asyncio.run(main())
    except (RiteraftError, OSError) as exc:
        sys.exit(f"{type(exc).__name__}: {exc}")
