"""An OpenAI-compatible server that replies from a fixed pool; a reply depends only on its request.

Run it: python tests/helpers/scripted_server.py [PORT]
"""

from __future__ import annotations

import json
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.grammar import instructions, is_choice, labels_of
from helpers.servers import LocalServer, served

POOL = 9000
Fault = Callable[[int, dict[str, Any]], "dict[str, Any] | None"]  # number of the request, its body: what goes wrong


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            number = len(self.server.seen)
            self.server.seen.append({"body": body, "path": self.path, "key": self.headers.get("Authorization")})
        fault = self.server.fault(number, body) or {}
        time.sleep(fault.get("wait", 0))
        if "broken_off" in fault:  # after so many bytes of a reply that promises more
            self.close_connection = True
            self.wfile.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"[
                    : fault["broken_off"]
                ]
            )
            return
        if "raw" in fault:
            self._send(200, fault["raw"].encode(), fault)
            return
        if fault.get("status", 200) != 200:
            error = {"error": {"message": fault.get("message", "not now"), "code": fault.get("code")}}
            self._send(fault["status"], json.dumps(error).encode(), fault)
            return
        is_chat = self.path.endswith("/chat/completions")
        prompt = body["messages"][-1]["content"] if is_chat else body["prompt"]
        text = fault["text"] if "text" in fault else answer(prompt, int(body.get("seed", number)), self.server.pool)
        finish = fault.get("finish", "stop")
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(str(text).split())}
        usage["total_tokens"] = sum(usage.values())
        answered = {"id": f"reply-{number}", "object": "chat.completion", "created": 0, "model": body["model"]}
        answered |= {"choices": [choice]} | ({} if fault.get("uncounted") else {"usage": usage})
        self._send(200, json.dumps(answered).encode(), fault)

    def _send(self, status: int, data: bytes, fault: dict[str, Any]) -> None:
        try:
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **fault.get("headers", {})}
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)
            self.wfile.flush()
        except OSError:  # the client has disconnected
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


class Server(LocalServer):
    request_queue_size = 64

    def __init__(self, port: int = 0, fault: Fault = lambda number, body: None, pool: int = POOL) -> None:
        super().__init__(port, Handler)
        self.fault, self.pool = fault, instructions(pool)
        self.lock = threading.Lock()
        self.seen: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


@contextmanager
def serving(fault: Fault = lambda number, body: None, pool: int = POOL) -> Iterator[Server]:
    with served(Server(0, fault, pool)) as server:
        yield server


def answer(prompt: str, seed: int, pool: list[str]) -> str:
    """Return the reply to a prompt: what the pool and the seed give, in the shape that the prompt asks for."""
    draw = random.Random(seed)
    if match := re.search(r"\nTask (\d+):$", prompt):
        first = int(match[1])
        drawn = draw.sample(pool, 8)
        return f" {drawn[0]}\n" + "\n".join(f"Task {first + n}: {text}" for n, text in enumerate(drawn[1:], start=1))
    if prompt.endswith("Classification:"):
        return "Yes" if is_choice(prompt.rsplit("Task: ", 1)[1]) else "No"
    draw = random.Random(prompt.rsplit("Task: ", 1)[-1])
    if prompt.endswith("\nLabel:"):
        labels = labels_of(prompt.rsplit("Task: ", 1)[1])
        return " " + "\nLabel: ".join(f"{label}\nInput: {_text(draw, pool)}" for label in labels)
    if prompt.endswith("\nInput:"):
        return f" {_text(draw, pool)}\nOutput: {_text(draw, pool)}"
    if prompt.endswith("### Evolved task:\n"):
        task = prompt.rsplit("### Task:\n", 1)[1].removesuffix("\n\n### Evolved task:\n")
        return f"{task} Also say what {draw.choice(pool).split('.')[0].lower()} has to do with it."
    if prompt.endswith("### Answer:"):
        return "Equal" if draw.random() < 0.1 else "Different"
    return "I am sorry, I cannot help." if draw.random() < 0.05 else _text(draw, pool)


def _text(draw: random.Random, pool: list[str]) -> str:
    words = " ".join(draw.sample(pool, 2)).split()
    draw.shuffle(words)
    return " ".join(words[: draw.randrange(4, 20)])


if __name__ == "__main__":
    server = Server(int(sys.argv[1]) if len(sys.argv) > 1 else 8000)
    print(f"answering at {server.address}", flush=True)
    server.serve_forever()
