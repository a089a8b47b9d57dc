"""An OpenAI-compatible endpoint as a generator, with counted retries."""

import os
import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext, suppress
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from peftkit.config import Generate, UserError, error_summary
from peftkit.generation.generators import GeneratorError, Reply, Request

RETRIED = (408, 409, 429)  # and 5xx: the same request may succeed later
MAX_RETRY_AFTER = 300.0  # seconds; a longer Retry-After ends the run
MAX_DELAY = 60.0  # seconds between two attempts


class EndpointGenerator:
    """A client of an endpoint with `generate.batch` threads.

    It retries instead of the openai client, so that each attempt is counted. A Retry-After applies to all threads.
    """

    def __init__(
        self, settings: Generate, key: str | None, has_answered: bool = False, first_delay: float = 1.0
    ) -> None:
        self.settings, self.first_delay = settings, first_delay
        self.takes_turns = self.has_likelihoods = False  # large models list eight tasks in one reply
        self._key = key
        with nullcontext() if key else _without_variables():
            self._client = openai.OpenAI(
                api_key=key or "none", base_url=settings.base_url, max_retries=0, timeout=settings.timeout
            )
        self._stop = threading.Event()
        self._not_before = 0.0  # on the monotonic clock
        self._has_answered = has_answered  # in this run, perhaps before an interruption

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield each reply as it arrives; after an error the requests in flight are still awaited."""
        self._stop.clear()
        failure: Exception | None = None
        with ThreadPoolExecutor(self.settings.batch) as threads:
            futures = [threads.submit(self._request, request) for request in requests]
            try:
                for future in as_completed(futures):
                    try:
                        yield [future.result()]
                    except (GeneratorError, UserError) as error:
                        failure = failure or error
                        self._cancel(futures)
                    except CancelledError:
                        pass
            finally:
                self._cancel(futures)
        if failure is not None:
            raise failure

    def _cancel(self, futures: Sequence[Future[Reply]]) -> None:
        self._stop.set()
        for future in futures:
            future.cancel()

    def _request(self, request: Request) -> Reply:
        attempts, jitter = self.settings.retries + 1, random.Random(request.seed)
        for attempt in range(attempts):
            if attempt:
                delay = min(self.first_delay * 2 ** (attempt - 1), MAX_DELAY)
                self._stop.wait(delay * jitter.uniform(0.5, 1.0))
            while (wait := self._not_before - time.monotonic()) > 0 and not self._stop.is_set():
                self._stop.wait(wait)
            if self._stop.is_set():
                raise CancelledError
            try:
                reply = read_completion(self._send(request), request, attempt + 1)
            except openai.APIStatusError as error:
                if (refusal := self._handle_status(error, request, attempt + 1)) is not None:
                    return refusal
                reason = f"{error.status_code} {self._summary(error)}"
            except openai.APIConnectionError as error:  # timeouts included
                reason = f"{self._summary(error)} ({error.__cause__ or 'no answer'})"
            except (ValueError, openai.APIResponseValidationError) as error:  # JSONDecodeError is a ValueError
                reason = f"a malformed reply ({self._summary(error)})"
            else:
                self._has_answered = True
                return reply
        raise GeneratorError(
            f"generate.base_url={self.settings.base_url}: no reply in {attempts} attempts, the last error: {reason}; "
            "the same command continues from here"
        )

    def _send(self, request: Request) -> Any:
        """Send a request; the user's fields override peftkit's."""
        prompt, settings = request.prompt, self.settings
        fields: dict[str, Any] = {
            "max_tokens": prompt.max_new_tokens,
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "stop": list(prompt.stop),
            "seed": request.seed,
            **settings.request,
        }
        common: Any = {
            "model": settings.endpoint_model,
            "extra_body": {name: value for name, value in fields.items() if value is not None},
        }
        if settings.chat is False:
            return self._client.completions.create(prompt=prompt.text(), **common)
        messages: Any = prompt.messages()
        return self._client.chat.completions.create(messages=messages, **common)

    def _handle_status(self, error: openai.APIStatusError, request: Request, attempts: int) -> Reply | None:
        """Return None if the request may be retried, or the refusal of this prompt; raise what no retry can change."""
        code, summary, settings = error.status_code, self._summary(error), self.settings
        if code == 429 and error.code == "insufficient_quota":
            raise GeneratorError(f"the endpoint's quota is exhausted ({summary}); run the same command later")
        if code in RETRIED or code >= 500:
            seconds = retry_after(error.response.headers) or 0.0
            if seconds > MAX_RETRY_AFTER:
                raise GeneratorError(f"the endpoint requests a wait of {seconds:.0f} s; run the same command after it")
            self._not_before = max(self._not_before, time.monotonic() + seconds)
            return None
        wrong_key = f"generate.key_env={settings.key_env}: the endpoint refuses the key ({code}: {summary})"
        messages = {
            401: wrong_key,
            403: wrong_key,
            404: f"generate.endpoint_model={settings.endpoint_model}: not found at {settings.base_url} ({summary}); "
            "check both; generate.base_url usually ends in /v1",
        }
        # it accepts requests, but not this prompt: too long, or filtered
        if self._has_answered and code not in messages:
            return Reply(request.number, "", "refused", 0, 0, attempts, note=f"{code}: {summary}")
        hint = "generate.request={NAME: null} removes a field"
        raise UserError(messages.get(code, f"the endpoint refuses the request ({code}: {summary}); {hint}"))

    def _summary(self, error: Exception) -> str:
        """Return the first line of a message, without the key."""
        text = error_summary(error)[:300]
        return text.replace(self._key, "***") if self._key else text


@contextmanager
def _without_variables() -> Iterator[None]:
    """Hide the variables OPENAI_*, such as further keys and headers, which the client would send to any server."""
    hidden = {name: os.environ.pop(name) for name in [*os.environ] if name.startswith("OPENAI_")}
    try:
        yield
    finally:
        os.environ.update(hidden)


def read_completion(completion: Any, request: Request, attempts: int) -> Reply:
    """Return the reply in a chat or text completion.

    If the server counts no tokens, one per byte is assumed, an upper bound.

    Raises:
        ValueError: there is no reply in it.
    """
    try:
        choice = completion.choices[0]
        text = choice.message.content if hasattr(choice, "message") else choice.text
        finish = str(choice.finish_reason or "stop")
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"no choice in it: {str(completion)[:80]!r}") from error
    if not isinstance(text, str | None):
        raise ValueError(f"no text in it: {str(text)[:80]!r}")
    text = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
    counts = [
        getattr(getattr(completion, "usage", None), name, None) for name in ("prompt_tokens", "completion_tokens")
    ]
    tokens_in, tokens_out = (
        count if isinstance(count, int) else len(counted.encode())
        for count, counted in zip(counts, (request.prompt.text(), text), strict=True)
    )
    note = None if isinstance(counts[0], int) else "tokens not counted by the server"
    return Reply(request.number, text, finish, tokens_in, tokens_out, attempts, note=note)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds in retry-after-ms, or in Retry-After as a number or a date."""
    if (milliseconds := headers.get("retry-after-ms", "")).isdigit():
        return int(milliseconds) / 1000
    value = headers.get("retry-after", "").strip()
    with suppress(ValueError):
        return max(float(value), 0.0)
    with suppress(TypeError, ValueError):
        return max(parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None
