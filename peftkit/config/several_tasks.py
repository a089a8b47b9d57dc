"""The config of a run of several tasks: the settings of each, and those that all have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.config.later_keys import ADDED_LATER

PREFIX = "multi-"  # of the name of such a run in paths
SUITE = "multi"  # of tasks of several suites


def joined(values: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the values of a config with several tasks.

    `task` has the settings of the first one, under the name of all, such as multi-cola-rte, in their suite.
    """
    suites = list(dict.fromkeys(str(task["suite"]) for task in tasks))
    name = PREFIX + "-".join(str(task["name"]) for task in tasks)
    first = {**tasks[0], "name": name, "suite": suites[0] if len(suites) == 1 else SUITE}
    return {**values, "task": first, "tasks": [dict(task) for task in tasks]}


def one_task(values: Mapping[str, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the run of one of the tasks alone; job=continual trains each as job=finetune."""
    job = "finetune" if values["job"] == "continual" else values["job"]
    return {**values, "job": job, "task": dict(task), "tasks": None, "multitask": ADDED_LATER["multitask"]}
