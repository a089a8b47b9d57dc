"""Turn prompts into replies of a server that speaks OpenAI's protocol, however badly it behaves."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, as_completed
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from peftkit.config import Generate, UserError, error_summary
from peftkit.generation.generators import GeneratorError, Reply, Request

AGAIN = (408, 409, 429)  # and 5xx: the same request may be answered later
LONGEST_WAIT = 300.0  # seconds; a server that asks for more is not waited for
LONGEST_DELAY = 60.0


class EndpointGenerator:
    """A server, asked by as many threads as `generate.batch` says.

    Retries are our own, so that each is counted. A server's Retry-After holds for all threads.
    """

    def __init__(
        self, settings: Generate, key: str | None, has_answered: bool = False, first_delay: float = 1.0
    ) -> None:
        assert settings.base_url is not None and settings.endpoint_model is not None  # the schema's to refuse
        self.settings, self.first_delay = settings, first_delay
        self._key = key
        self._client = openai.OpenAI(
            api_key=key or "none", base_url=settings.base_url, max_retries=0, timeout=settings.timeout
        )
        self._stop = threading.Event()
        self._not_before = 0.0  # on the monotonic clock
        self._has_answered = has_answered  # in this run, perhaps before it was interrupted

    def replies(self, requests: Sequence[Request]) -> Iterator[list[Reply]]:
        """Yield each reply as it comes; where one fails for good, those that are under way are still waited for."""
        self._stop.clear()
        fault: Exception | None = None
        with ThreadPoolExecutor(self.settings.batch) as threads:
            waiting = [threads.submit(self._ask, request) for request in requests]
            try:
                for future in as_completed(waiting):
                    try:
                        yield [future.result()]
                    except (GeneratorError, UserError) as error:
                        fault = fault or error
                        self._give_up(waiting)
                    except CancelledError:
                        pass
            finally:
                self._give_up(waiting)
        if fault is not None:
            raise fault

    def _give_up(self, waiting: Sequence[Future[Reply]]) -> None:
        self._stop.set()
        for future in waiting:
            future.cancel()

    def _ask(self, request: Request) -> Reply:
        attempts, pauses = self.settings.retries + 1, random.Random(request.seed)
        reason = ""
        for attempt in range(attempts):
            if attempt:
                delay = min(self.first_delay * 2 ** (attempt - 1), LONGEST_DELAY)
                self._pause(delay * pauses.uniform(0.5, 1.0))
            while (wait := self._not_before - time.monotonic()) > 0 and not self._stop.is_set():
                self._pause(wait)
            if self._stop.is_set():
                raise CancelledError
            try:
                completion = self._send(request)
                reply = read_completion(completion, request, attempt + 1)
            except openai.APIStatusError as error:
                if (refusal := self._status(error, request, attempt + 1)) is not None:
                    return refusal
                reason = f"{error.status_code} {self._said(error)}"
            except openai.APIConnectionError as error:  # a timeout among them
                reason = f"{self._said(error)} ({error.__cause__ or 'no answer'})"
            except (ValueError, openai.APIResponseValidationError) as error:  # JSONDecodeError is a ValueError
                reason = f"a malformed reply ({self._said(error)})"
            else:
                self._has_answered = True
                return reply
        raise GeneratorError(
            f"{self.settings.base_url} gave no reply in {attempts} attempts, the last time: {reason}; "
            "the same command goes on where this one stopped"
        )

    def _send(self, request: Request) -> Any:
        """Send one request, with the user's own fields laid over ours."""
        prompt, settings = request.prompt, self.settings
        is_chat = settings.chat is not False
        ours: dict[str, Any] = {
            "max_tokens": prompt.max_new_tokens,
            "temperature": prompt.temperature,
            "top_p": prompt.top_p,
            "stop": list(prompt.stop),
            "seed": request.seed,
        }
        fields = {name: value for name, value in {**ours, **settings.request}.items() if value is not None}
        if is_chat:
            messages: Any = [{"role": "user", "content": prompt.text()}]
            return self._client.chat.completions.create(
                model=str(settings.endpoint_model), messages=messages, extra_body=fields
            )
        return self._client.completions.create(
            model=str(settings.endpoint_model), prompt=prompt.text(), extra_body=fields
        )

    def _status(self, error: openai.APIStatusError, request: Request, attempts: int) -> Reply | None:
        """Return None where another attempt may help, or a refusal of this one prompt; raise where none ever will."""
        code, said = error.status_code, self._said(error)
        if code == 401 or code == 403:
            raise UserError(f"the endpoint refuses the key in {self.settings.key_env} ({code}: {said}); set another")
        if code == 404:
            raise UserError(
                f"{self.settings.base_url} knows no {self.settings.endpoint_model} ({said}); "
                "look at generate.base_url, which mostly ends in /v1, and generate.endpoint_model"
            )
        if code == 429 and error.code == "insufficient_quota":
            raise GeneratorError(f"the endpoint's quota is used up ({said}); the same command goes on later")
        if code in AGAIN or code >= 500:
            self._wait_as_told(error.response.headers)
            return None
        if self._has_answered:  # it takes our requests, but not this prompt: too long, or filtered
            return Reply(request.number, "", "refused", 0, 0, attempts, note=f"{code}: {said}")
        raise UserError(
            f"the endpoint refuses the request ({code}: {said}); generate.request={{NAME: null}} drops a field"
        )

    def _wait_as_told(self, headers: Mapping[str, str]) -> None:
        seconds = retry_after(headers)
        if seconds is None:
            return
        if seconds > LONGEST_WAIT:
            raise GeneratorError(f"the endpoint asks to wait for {seconds:.0f} s; the same command goes on then")
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._stop.wait(seconds)

    def _said(self, error: Exception) -> str:
        """Return the first line of a message, without the key."""
        text = error_summary(error)[:300]
        return text.replace(self._key, "***") if self._key else text


def read_completion(completion: Any, request: Request, attempts: int) -> Reply:
    """Return the reply in a completion, of a chat or of a text.

    A server that counts no tokens is taken to have used as many as there can be: one a byte.

    Raises:
        ValueError: it is none.
    """
    try:
        choice = completion.choices[0]
        text = choice.message.content if hasattr(choice, "message") else choice.text
        finish = str(choice.finish_reason or "stop")
    except (AttributeError, IndexError, TypeError) as error:
        raise ValueError(f"no choice in it: {str(completion)[:80]!r}") from error
    if not isinstance(text, str | None):
        raise ValueError(f"no text in it: {str(text)[:80]!r}")
    whole = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written
    used = getattr(completion, "usage", None)
    counted = [getattr(used, name, None) for name in ("prompt_tokens", "completion_tokens")]
    most = (len(request.prompt.text().encode()), len(whole.encode()))
    tokens_in, tokens_out = (
        given if isinstance(given, int) else bound for given, bound in zip(counted, most, strict=True)
    )
    note = None if isinstance(counted[0], int) else "tokens not counted by the server"
    return Reply(request.number, whole, finish, tokens_in, tokens_out, attempts, note=note)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds for which a server asks to wait: of retry-after-ms, or Retry-After as a number or a date."""
    if (milliseconds := headers.get("retry-after-ms", "")).isdigit():
        return int(milliseconds) / 1000
    asked = headers.get("retry-after", "").strip()
    try:
        return max(float(asked), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(asked).timestamp() - time.time(), 0.0)
    except (TypeError, ValueError):
        return None
