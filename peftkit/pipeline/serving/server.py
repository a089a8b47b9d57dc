"""The HTTP server of a service: its socket, its signals, and an end that answers what was taken."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from peftkit.config import UserError, refusal
from peftkit.config.console import log
from peftkit.config.sections import Serve
from peftkit.config.signals import SIGNALS
from peftkit.pipeline.serving.app import HEADERS, Service, error_response

if sys.platform != "win32":
    import resource

MAX_CONNECTIONS = 1024
FILES = 4096  # that the process may open: connections, those that are refused, and those that are not yet counted


class GuardedProtocol(H11Protocol):
    """Refuses as the application does, and closes a connection whose request line and headers do not arrive in time."""

    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        excess = len(self.connections) - (limit := connection_limit())
        if excess > 0:
            more = {**HEADERS, "Retry-After": "1", "Connection": "close"}
            self.app = error_response(f"the server has {limit} connections; try again later", 503, more)
        if excess > limit / 2:  # these too would take files until their request arrives
            transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer to the request has begun."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            refused = error_response("the request is not valid HTTP, or its headers are too long", 400, HEADERS)
            headers = [*refused.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers),
                h11.Data(bytes(refused.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _watch(self) -> None:
        is_waiting = self.cycle is None or self.cycle.response_complete
        if self.timer is not None and not is_waiting:
            self.timer.cancel()
            self.timer = None
        elif self.timer is None and is_waiting:
            self.timer = self.loop.call_later(self.timeout_keep_alive, self._close)

    def _close(self) -> None:
        self.timer = None
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def raise_file_limit() -> None:
    """Let the process open enough files for all connections, as far as the system allows it."""
    if sys.platform == "win32":
        return
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES if most == resource.RLIM_INFINITY else min(FILES, most)
    if files != resource.RLIM_INFINITY and files < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def connection_limit() -> int:
    """Return how many connections are answered, with files left for those that are refused."""
    if sys.platform == "win32":
        return MAX_CONNECTIONS
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 2)


class Server(uvicorn.Server):
    """Stops at the first signal once the service has answered what it took, at the second one without that.

    A third one ends the process wherever it is.
    """

    def __init__(self, service: Service) -> None:
        self.service, self.number = service, 0
        super().__init__(
            uvicorn.Config(
                service.application(), http=GuardedProtocol, ws="none", lifespan="on", loop="asyncio",
                log_config=None, access_log=False, server_header=False, proxy_headers=False,
                timeout_keep_alive=max(1, round(service.settings.timeout)),
                timeout_graceful_shutdown=max(1, round(service.settings.timeout)),
            )
        )  # fmt: skip

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle the signals that stop a command, except those that are ignored, as under nohup."""
        before = {number: signal.getsignal(number) for number in SIGNALS}
        ours = [number for number, handler in before.items() if handler != signal.SIG_IGN]
        for number in ours:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number])

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.number:
            self.should_exit = self.force_exit = True
            for each in SIGNALS:
                if signal.getsignal(each) == self.handle_exit:
                    signal.signal(each, signal.SIG_DFL)
        self.number = self.number or sig
        self.service.is_stopping = True

    async def on_tick(self, counter: int) -> bool:
        if self.service.is_stopping and not self.service.active:
            self.should_exit = True
        return await super().on_tick(counter)


def open_socket(settings: Serve) -> socket.socket:
    """Return a socket that is bound to the address of the settings.

    Raises:
        UserError: the address is in use, or not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        wrong = f"serve.host={settings.host} is no address of this machine ({error.strerror})"
        raise UserError(refusal(wrong, "serve.host=127.0.0.1")) from error
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        wrong = f"{settings.host} port {settings.port} cannot be opened ({error.strerror})"
        other = settings.port + 1 if 1023 < settings.port < 65535 else 8000
        raise UserError(refusal(wrong, f"serve.port={other}")) from error
    return found


def serve_until_stopped(service: Service, opened: socket.socket) -> int:
    """Answer requests until a signal, and return its number."""
    logging.getLogger("uvicorn.error").addHandler(logging.NullHandler())  # its messages repeat those of the command
    raise_file_limit()
    server = Server(service)
    opened.listen()  # connections wait from here on, so that who reads the address may use it
    host, port = opened.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log(f"http://{shown}:{port}/ answers with {', '.join(service.runs)}; Ctrl-C stops it")
    server.run(sockets=[opened])
    return server.number
