"""The session of a job that calls a generator: locked folder, journal, client, and a result written in any case."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from peftkit.config import RunConfig, error_summary
from peftkit.config.source import Source
from peftkit.generation.client import GenerationClient, Journal
from peftkit.pipeline.generators import generator_device, generator_precision, load_generator
from peftkit.results import run_folder
from peftkit.results.console import log
from peftkit.results.record import SCHEMA


@contextmanager
def generation_session(
    config: RunConfig, model: Source, folder: Path, files: Sequence[str], result: dict[str, Any]
) -> Iterator[GenerationClient]:
    """Lock a folder and yield a client whose journal is in it; at the end, write the result with its status.

    Args:
        files: what the job writes, the result file last; force=true deletes them first.
        result: filled by the job; a status that the job sets is kept.
    """
    settings = config.generate
    meta = run_folder.meta(config.seed, generator_device(settings), generator_precision(settings))
    result |= {"run": {"config": config.to_dict(), "overrides": [*config.overrides]}, "meta": meta}
    with ExitStack() as stack:
        run_folder.lock(stack, folder)
        for name in files if config.force else ():
            (folder / name).unlink(missing_ok=True)
        try:
            journal = stack.enter_context(closing(Journal(folder / "journal.jsonl")))
            generator = load_generator(settings, model, bool(journal.rows))
            client = GenerationClient(generator, journal, settings, config.seed)
            if journal.rows:
                log(f"continuing in {folder}: {client.usage['requests']:,} replies so far")
            yield client
            meta["status"] = "finished" if meta["status"] == "running" else meta["status"]
        except BaseException as error:
            meta |= {"status": "failed", "reason": error_summary(error)}
            raise
        finally:
            text = json.dumps({"schema": SCHEMA, **result}, indent=1, default=str)
            run_folder.write_text(folder / files[-1], text + "\n")
