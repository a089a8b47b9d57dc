"""The connection between the processes of one run, which can be ended while an operation waits, and made anew."""

import atexit
import ctypes
import os
import socket
import threading
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from torch import distributed
from torch.distributed import PrefixStore, Store, TCPStore
from torch.distributed.distributed_c10d import _abort_process_group

_SOCKETS: list[int] = []  # descriptors of the connection


@cache
def shared_store() -> Store:
    """Return what the processes share beside collective operations, in torchrun's own process or in the first one.

    It is usable while a collective operation waits.
    """
    is_hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=not is_hosted and os.environ["RANK"] == "0",
        timeout=timedelta(seconds=60),
        wait_for_workers=False,
        multi_tenant=True,
    )


def connect(name: str) -> None:
    """Connect all processes, which must be here, unless they are connected. Each connection has another name."""
    if distributed.is_initialized():
        return
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "cuda:nccl,cpu:gloo"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, before = shared_store(), _open_sockets()
    distributed.init_process_group(
        backend,
        store=PrefixStore(name, store),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    _SOCKETS[:] = _open_sockets() - before
    atexit.register(disconnect)


def end_operations() -> None:
    """End the collective operations of this process with an error; they may wait for a process that has gone."""
    for descriptor in _SOCKETS:
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # gloo aborts without its listener
                connection.shutdown(socket.SHUT_RDWR)
    _SOCKETS.clear()
    if torch.cuda.is_available() and distributed.is_initialized():
        _abort_process_group()


def disconnect() -> None:
    """Forget the connection."""
    _SOCKETS.clear()
    if distributed.is_initialized():
        distributed.destroy_process_group()


def raise_in_main_thread(error: type[BaseException]) -> None:
    """Raise an error in the main thread as soon as it executes Python."""
    thread = threading.main_thread().ident
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread or 0), ctypes.py_object(error))


def _open_sockets() -> set[int]:
    """Return the descriptors of this process that are sockets; none where the system does not list them."""
    found = set()
    with suppress(OSError):
        for link in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if str(link.readlink()).startswith("socket:"):
                    found.add(int(link.name))
    return found
