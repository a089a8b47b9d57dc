"""Turn a composed choice into work done: the verbs that users type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.schema import Run

# it recommends a faster 4-bit kernel when it is imported, whatever the run needs
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

if TYPE_CHECKING:
    from omegaconf import DictConfig


def run(cfg: DictConfig, overrides: Sequence[str] = (), recipe: str | None = None) -> Path | None:
    """Do the job that a composed config names; return its run folder where it has one.

    Raises:
        UserError: the input is wrong in a way that only loading could show.
    """
    from omegaconf import OmegaConf

    config: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    chosen = Run.from_config(config)
    if chosen.job == "leaderboard":  # the one job that loads no model
        from peftkit.jobs.leaderboard import leaderboard

        leaderboard(chosen)
        return None

    from peftkit.jobs import finetune, matrix, mixed, plan, pretrain, use
    from peftkit.jobs.prepare import settle

    settle(chosen.source)
    verbs: dict[str, Callable[[], Path | None]] = {
        "finetune": lambda: finetune.finetune(chosen, config, list(overrides), recipe),
        "evaluate": lambda: use.evaluate(chosen, list(overrides)),
        "predict": lambda: mixed.predict_mixed(chosen) if chosen.runs else use.predict(chosen),
        "merge": lambda: use.merge(chosen),
        "pretrain": lambda: pretrain.pretrain(chosen),
        "plan": lambda: plan.plan(chosen),
        "matrix": lambda: matrix.matrix(chosen),
    }
    return verbs[chosen.job]()


def finish(folders: Sequence[Path]) -> None:
    """Show one table over the runs of this command, and once more whatever was substituted in them."""
    from peftkit.jobs.leaderboard import show_runs

    show_runs(folders)
