"""A bounded queue of examples, which one thread computes in batches while the event loop goes on."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from peftkit import training
from peftkit.config import UserError, error_summary
from peftkit.config.console import log
from peftkit.pipeline.serving.answers import Answer, Example, ServerError, answer_batches
from peftkit.pipeline.serving.measures import Measures

TRIM_SECONDS = 5.0


class QueueFullError(UserError):
    """The examples of a request do not fit into the queue."""


@dataclass(eq=False)
class BatchQueue:
    """Collects the examples of requests into batches.

    Args:
        size: of a batch, in examples.
        delay: seconds that the first example waits for others.
        limit: of the examples that wait or are computed.
    """

    size: int
    delay: float
    limit: int
    measures: Measures
    pending: int = 0
    waiting: deque[tuple[Example, asyncio.Future[Answer]]] = field(default_factory=deque)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    trimmed: float = field(default_factory=time.monotonic)
    worker: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "model"))

    async def answer(self, examples: Sequence[Example]) -> list[Answer]:
        """Return the answers of the examples of a request, in their order.

        Raises:
            QueueFullError: the queue has no room for all of them.
        """
        if self.pending + len(examples) > self.limit:
            raise QueueFullError(f"the queue is full: {self.pending} of {self.limit} examples wait; try again later")
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in examples]
        self._count(len(examples))
        self.waiting.extend(zip(examples, futures, strict=True))
        self.arrived.set()
        return await asyncio.gather(*futures)

    async def run(self) -> None:
        """Compute batches until this task is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            if not self.waiting:
                self.arrived.clear()
                await self.arrived.wait()
                await asyncio.sleep(self.delay)  # examples that arrive during a batch have waited for each other
            batch = [self.waiting.popleft() for _ in range(min(self.size, len(self.waiting)))]
            try:
                await loop.run_in_executor(self.worker, self._compute, loop, batch)
            except Exception as error:  # without this task, no request would be answered any more
                log(f"!! a batch failed: {type(error).__name__}: {error_summary(error)}")
                for _, future in batch:
                    if not future.done():
                        self._finish(future, ServerError("the server failed on this batch; its log has the reason"))

    def _compute(
        self, loop: asyncio.AbstractEventLoop, batch: Sequence[tuple[Example, asyncio.Future[Answer]]]
    ) -> None:
        for places, answers in answer_batches([example for example, _ in batch], self.size):
            self.measures.batch_sizes.observe(len(places))
            for place, answer in zip(places, answers, strict=True):
                loop.call_soon_threadsafe(self._finish, batch[place][1], answer)
        if time.monotonic() - self.trimmed > TRIM_SECONDS:  # tensors of all shapes leave gaps, which grow for minutes
            training.return_memory()
            self.trimmed = time.monotonic()

    def _finish(self, future: "asyncio.Future[Answer]", answer: Answer) -> None:
        self._count(-1)
        if not future.done():  # its request was cancelled
            future.set_result(answer)

    def _count(self, change: int) -> None:
        self.pending += change
        self.measures.queue.set(self.pending)
