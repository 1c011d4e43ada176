"""A TCP proxy on loopback that breaks at the moment a test chooses."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self, TypeVar

T = TypeVar("T")

_CHUNK = 65536
_ANSWER_S = 10.0
_RESET = struct.pack("ii", 1, 0)  # linger for no time at all: closing sends RST, not FIN


class Way(enum.Enum):
    """Direction in which bytes travel."""

    UP = "to the server"
    DOWN = "to the client"


@dataclass(eq=False)
class _Link:
    client: socket.socket
    server: socket.socket
    task: asyncio.Task[None] | None = None
    reset: bool = False

    def ends(self, way: Way) -> tuple[socket.socket, socket.socket]:
        return (self.client, self.server) if way is Way.UP else (self.server, self.client)

    def cut(self, *, reset: bool) -> None:
        self.reset = reset
        if self.task is not None:
            self.task.cancel()

    def close(self) -> None:
        for end in (self.client, self.server):
            if self.reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.close()


class Proxy:
    """Forwards connections to a port of this machine until it is told to misbehave.

    Methods may be called from any thread; when they return, it has happened.

    Attributes
    ----------
    port : int
        On 127.0.0.1, where it listens.
    accepted : int
        Connections that have come so far.
    passed : dict of Way to int
        Bytes that have been forwarded so far.
    cuts : int
        How often connections were cut, by :meth:`cut` or :meth:`cut_after`.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.accepted = 0
        self.passed = dict.fromkeys(Way, 0)
        self.cuts = 0
        self._budget: dict[Way, int] = {}
        self._resets = True
        self._refuses = False
        self._flows = {way: asyncio.Event() for way in Way}
        self._links: set[_Link] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server: asyncio.Task[None] = self._in_loop(self._begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return len(self._links)

    def cut(self, *, reset: bool = True) -> None:
        """Cut every open connection on both sides: by RST, or in order by FIN."""
        asyncio.run_coroutine_threadsafe(self._cut_now(reset=reset), self._loop).result(_ANSWER_S)

    def cut_after(self, count: int, way: Way, *, reset: bool = True) -> None:
        """Let through that many more bytes, all connections together; then cut them."""

        def arm() -> None:
            self._budget[way] = count
            self._resets = reset

        self._in_loop(arm)

    def stall(self, *ways: Way) -> None:
        """Make a hole: nothing gets through (in these directions), neither end is told."""

        def stall() -> None:
            for way in ways or Way:
                self._flows[way].clear()

        self._in_loop(stall)

    def refuse(self) -> None:
        """Reset connections that are new from now on."""
        self._in_loop(lambda: setattr(self, "_refuses", True))

    def heal(self) -> None:
        """Forward everything again; what was stalled arrives late."""

        def heal() -> None:
            self._refuses = False
            self._budget.clear()
            for flow in self._flows.values():
                flow.set()

        self._in_loop(heal)

    def close(self) -> None:
        """Reset what is open and end."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_ANSWER_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_S)
        self._loop.close()
        self._listener.close()

    def _in_loop(self, action: Callable[[], T]) -> T:
        async def act() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(act(), self._loop).result(_ANSWER_S)

    def _begin(self) -> asyncio.Task[None]:
        for flow in self._flows.values():
            flow.set()
        return self._loop.create_task(self._serve())

    async def _end(self) -> None:
        self._server.cancel()
        await asyncio.gather(self._server, self._cut_now(reset=True), return_exceptions=True)

    async def _serve(self) -> None:
        while True:
            client, _ = await self._loop.sock_accept(self._listener)
            self.accepted += 1
            server = socket.socket()
            server.setblocking(False)
            link = _Link(client, server, reset=self._refuses)
            self._links.add(link)
            link.task = self._loop.create_task(self._carry(link))
            link.task.add_done_callback(partial(self._closed, link))

    async def _carry(self, link: _Link) -> None:
        """Serve one connection until both sides have finished, or it is cut."""
        try:
            if not link.reset:
                await self._loop.sock_connect(link.server, ("127.0.0.1", self.target))
                async with asyncio.TaskGroup() as both:
                    for way in Way:
                        both.create_task(self._pump(link, way))
        except* OSError:
            link.reset = True  # one side has broken off: so does the other

    def _closed(self, link: _Link, _task: asyncio.Task[None]) -> None:
        link.close()
        self._links.discard(link)

    async def _pump(self, link: _Link, way: Way) -> None:
        source, sink = link.ends(way)
        while data := await self._loop.sock_recv(source, _CHUNK):
            await self._flows[way].wait()
            left = self._budget.get(way)
            allowed = data[:left]
            await self._loop.sock_sendall(sink, allowed)
            self.passed[way] += len(allowed)
            if left is not None:
                self._budget[way] = left - len(allowed)
                if left <= len(data):
                    del self._budget[way]
                    self._cut(reset=self._resets)
                    await asyncio.sleep(0)  # here it is cancelled
        await self._flows[way].wait()
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    async def _cut_now(self, *, reset: bool) -> None:
        tasks = [link.task for link in self._links if link.task is not None]
        self._cut(reset=reset)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self, *, reset: bool) -> None:
        self.cuts += 1
        for link in self._links:
            link.cut(reset=reset)
