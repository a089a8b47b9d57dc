"""Turn a composed choice into work done: the verbs that users type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from peftkit.config import RunConfig

# it recommends a faster 4-bit kernel when it is imported, whatever the run needs
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def run(chosen: RunConfig, begin: Callable[[Path], None] | None = None) -> Path | None:
    """Do the job that a config names; return its run folder where it has one.

    Args:
        begin: is told the folder of a run that trains before it does, as a failed one's is not returned.

    Raises:
        UserError: the input is wrong in a way that only loading could show.
    """
    config, overrides, recipe = chosen.to_dict(), list(chosen.overrides), chosen.recipe
    if chosen.job == "leaderboard":  # the one job that loads no model
        from peftkit.jobs.leaderboard import leaderboard

        leaderboard(chosen)
        return None
    if chosen.job == "submission":  # refuses what is missing before it loads any
        from peftkit.jobs.submission import submission

        submission(chosen, config, overrides)
        return None
    if chosen.job == "generate":  # an endpoint needs no torch
        from peftkit.jobs.generate import generate

        return generate(chosen, config, overrides)

    from peftkit.jobs import (
        downstream,
        embed,
        evaluate,
        extend,
        finetune,
        forgetting,
        judge,
        matrix,
        merge,
        plan,
        predict,
        predict_mixed,
        pretrain,
    )  # fmt: skip
    from peftkit.jobs.generated_data import with_generated_data
    from peftkit.pipeline.build import configure_libraries

    configure_libraries(chosen.source)
    chosen, config = with_generated_data(chosen, config, overrides)
    verbs: dict[str, Callable[[], Path | None]] = {
        "finetune": lambda: finetune.finetune(chosen, config, overrides, recipe, begin),
        "evaluate": lambda: evaluate.evaluate(chosen, overrides),
        "predict": lambda: predict_mixed.predict_mixed(chosen) if chosen.runs else predict.predict(chosen),
        "merge": lambda: merge.merge(chosen),
        "pretrain": lambda: pretrain.pretrain(chosen),
        "plan": lambda: plan.plan(chosen),
        "matrix": lambda: matrix.matrix(chosen),
        "forgetting": lambda: forgetting.forgetting(chosen),
        "downstream": lambda: downstream.downstream(chosen, config, overrides, recipe, begin),
        "extend": lambda: extend.extend(chosen, config, overrides),
        "embed": lambda: embed.embed(chosen),
        "judge": lambda: judge.judge(chosen, config, overrides),
    }
    return verbs[chosen.job]()


def finish(folders: Sequence[Path], claim: str | None = None) -> None:
    """Show one table over the runs of this command, whatever was substituted in them, and what becomes of the claim."""
    from peftkit.jobs.leaderboard import show_runs

    show_runs(folders, claim)
