"""Requests to an ASGI application in this process, with bodies as slow or as odd as a test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

JSON = {"content-type": "application/json", "host": "localhost:8000"}


@dataclass(frozen=True)
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=lambda name: 1 / 0)


@dataclass(frozen=True)
class Client:
    application: Any

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        return await self.send("GET", path, [b""], {"host": "localhost", **(headers or {})})

    async def post(self, body: Any, headers: Mapping[str, str] | None = None, path: str = "/predict") -> Reply:
        """Send bytes as they are, and anything else as JSON."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.send("POST", path, [content], {**JSON, **(headers or {})})

    async def send(
        self, method: str, path: str, parts: Sequence[bytes], headers: Mapping[str, str], pause: float = 0
    ) -> Reply:
        """Send a body in parts with pauses between them."""
        waiting, sent = list(parts), []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(pause)
            if not waiting:
                await asyncio.Event().wait()
            part = waiting.pop(0)
            return {"type": "http.request", "body": part, "more_body": bool(waiting)}

        async def reply(message: dict[str, Any]) -> None:
            sent.append(message)

        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": encoded,
            "server": ("127.0.0.1", 8000), "client": ("127.0.0.1", 1),
        }  # fmt: skip
        await self.application(scope, receive, reply)
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))


@asynccontextmanager
async def running(application: Any) -> AsyncIterator[Client]:
    """Run an application's lifespan around the block."""
    incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    outgoing: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    task = asyncio.create_task(application({"type": "lifespan", "asgi": {}, "state": {}}, incoming.get, outgoing.put))
    await incoming.put({"type": "lifespan.startup"})
    assert (await outgoing.get())["type"] == "lifespan.startup.complete"
    try:
        yield Client(application)
    finally:
        await incoming.put({"type": "lifespan.shutdown"})
        await outgoing.get()
        await task
