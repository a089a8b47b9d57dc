"""The addresses of a server, as an ASGI application."""

import asyncio
import contextlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from peftkit.config import UserError, error_summary, nearest
from peftkit.config.console import log
from peftkit.config.sections import Serve
from peftkit.data.cells import describe
from peftkit.pipeline.serving.answers import Example, ServerError, empty_answer, parse_example
from peftkit.pipeline.serving.batching import BatchQueue, QueueFullError
from peftkit.pipeline.serving.measures import Measures
from peftkit.pipeline.serving.requests import parse_body, read_body
from peftkit.pipeline.serving.runs import ServedRun

HERE = Path(__file__).parent
LOCAL = ("127.0.0.1", "localhost", "[::1]")
PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Service:
    """Answers requests with the predictions of runs.

    Args:
        runs: by their names.
        size: of a batch, in examples.
    """

    def __init__(self, runs: Mapping[str, ServedRun], settings: Serve, size: int) -> None:
        self.runs, self.settings = runs, settings
        self.measures = Measures()
        self.queue = BatchQueue(size, settings.max_batch_delay, settings.max_queue, self.measures)
        self.active = self.answered = 0
        self.is_stopping = False

    def application(self) -> Any:
        """Return the ASGI application."""
        routes = [
            *(Route(path, self._file(*file), methods=["GET"]) for path, file in PAGE.items()),
            Route("/health", self.health, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/runs", self.list_runs, methods=["GET"]),
            Route("/predict", self.predict, methods=["POST"]),
        ]
        handlers: Any = {HTTPException: _http_error}
        app = Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)
        app.router.redirect_slashes = False
        return self._guarded(app)

    async def health(self, _: Request) -> Response:
        return _json({"status": "stopping"}, 503) if self.is_stopping else _json({"status": "ok"})

    async def metrics(self, _: Request) -> Response:
        return Response(self.measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def list_runs(self, _: Request) -> Response:
        limits = {name: getattr(self.settings, name) for name in ("max_characters", "max_examples")}
        return _json({"runs": [run.describe() for run in self.runs.values()], "limits": limits})

    async def predict(self, request: Request) -> Response:
        """Answer a request, or refuse it with one sentence."""
        started = time.perf_counter()
        self.active += 1
        try:
            response = _json(await self._answer(request))
        except HTTPException as error:
            response = _http_error(request, error)
        except Exception as error:
            log(f"!! a request failed: {type(error).__name__}: {error_summary(error)}")
            response = error_response("the server failed on this request; its log has the reason", 500)
        finally:
            self.active -= 1
            self.answered += 1
        self.measures.requests.labels(str(response.status_code)).inc()
        self.measures.seconds.observe(time.perf_counter() - started)
        return response

    async def _answer(self, request: Request) -> dict[str, Any]:
        if self.is_stopping:
            raise HTTPException(503, "the server is stopping")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HTTPException(415, "the body is not declared as JSON; send Content-Type: application/json")
        body = parse_body(await read_body(request, self.settings.max_bytes, self.settings.timeout))
        run = self._run(body)
        examples = self._examples(run, body)
        full = [example for example in examples if not example.is_empty]
        try:
            computed = iter(await self.queue.answer(full))
        except QueueFullError as error:
            raise HTTPException(429, str(error), {"Retry-After": "1"}) from None
        answers = [empty_answer(run) if example.is_empty else next(computed) for example in examples]
        for number, answer in enumerate(answers):
            if isinstance(answer, UserError):
                raise HTTPException(500 if isinstance(answer, ServerError) else 400, f"examples[{number}]: {answer}")
        self._count(run, answers)
        return {"run": run.name, "predictions": answers}

    def _run(self, body: Mapping[str, Any]) -> ServedRun:
        """Return the run that a request names, or the only one."""
        name, names = body.get("run"), ", ".join(self.runs)
        if name is None and len(self.runs) == 1:
            return next(iter(self.runs.values()))
        if name is None:
            raise HTTPException(400, f"run is missing; the runs are {names}")
        if not isinstance(name, str):
            raise HTTPException(400, f"run: {describe(name)}, not the name of a run; the runs are {names}")
        if name not in self.runs:
            raise HTTPException(404, f"unknown run {name[:100]}{nearest(name[:100], self.runs)}")
        return self.runs[name]

    def _examples(self, run: ServedRun, body: Mapping[str, Any]) -> list[Example]:
        values = body.get("examples")
        if not isinstance(values, list) or not values:
            raise HTTPException(400, "examples is not a list with an example or more")
        if len(values) > self.settings.max_examples:
            most = self.settings.max_examples
            raise HTTPException(413, f"{len(values)} examples are more than {most}, serve.max_examples")
        try:
            examples = [parse_example(run, each, f"examples[{number}]") for number, each in enumerate(values)]
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        except RecursionError:  # where reading it ended just before that
            raise HTTPException(400, "the body is nested too deeply") from None
        for number, example in enumerate(examples):
            if example.size > self.settings.max_characters:
                most = self.settings.max_characters
                raise HTTPException(413, f"examples[{number}] has more than {most} characters, serve.max_characters")
        return examples

    def _count(self, run: ServedRun, answers: list[Any]) -> None:
        self.measures.examples.labels(run.name).inc(len(answers))
        self.measures.truncated.labels(run.name).inc(sum(answer["truncated"] for answer in answers))
        left = sum(answer["prediction"] is None and answer.get("suggestion") is not None for answer in answers)
        self.measures.abstained.labels(run.name).inc(left)

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self.queue.run())
        try:
            yield
        finally:
            task.cancel()
            self.queue.worker.shutdown(wait=False, cancel_futures=True)

    def _guarded(self, app: Any) -> Any:
        """Return the application with its headers; one that listens on this machine only answers to its names only.

        A page of another site whose name was made to lead here (DNS rebinding) has that name as its host.
        """
        is_local = self.settings.host in (*LOCAL, "::1")

        async def guarded(scope: Any, receive: Any, send: Any) -> None:
            async def send_with_headers(message: Any) -> None:
                if message["type"] == "http.response.start":
                    added = {**HEADERS, **({"Connection": "close"} if self.is_stopping else {})}
                    more = [(name.lower().encode(), value.encode()) for name, value in added.items()]
                    message = {**message, "headers": [*message["headers"], *more]}
                await send(message)

            if scope["type"] == "http" and is_local and _host(scope) not in LOCAL:
                refused = error_response("this server answers to 127.0.0.1 and localhost only", 403)
                await refused(scope, receive, send_with_headers)
                return
            await app(scope, receive, send_with_headers)

        return guarded

    def _file(self, name: str, media_type: str) -> Callable[[Request], Any]:
        content = (HERE / "page" / name).read_bytes()

        async def answer(_: Request) -> Response:
            return Response(content, media_type=media_type)

        return answer


def _host(scope: Mapping[str, Any]) -> str:
    """Return the host that a request names, without its port."""
    found = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    name, _, port = found.rpartition(":")
    return name if name and port.isdecimal() else found


def _http_error(_: Request, error: HTTPException) -> Response:
    return error_response(error.detail, error.status_code, error.headers)


def error_response(message: str, status: int, headers: Mapping[str, str] | None = None) -> Response:
    """Return the response to a request that is refused."""
    return _json({"error": message}, status, headers)


def _json(content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a response; NaN, which JSON lacks and words without a token have as score, is null."""
    text = json.dumps(_finite(content), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(text.encode(errors="replace"), status, headers, "application/json")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list) else value
