"""Validation of a composed config before anything loads."""

from collections.abc import Mapping
from typing import Any

from peftkit.config.checks.arithmetic import combine_errors
from peftkit.config.checks.benchmarks import bench_errors
from peftkit.config.checks.chatting import chat_errors
from peftkit.config.checks.columns import column_errors
from peftkit.config.checks.combinations import combination_errors
from peftkit.config.checks.cross_validation import holdout_errors
from peftkit.config.checks.decoding import decoding_errors, decoding_setting_errors
from peftkit.config.checks.domains import domain_errors
from peftkit.config.checks.estimators import estimator_errors
from peftkit.config.checks.exports import export_errors
from peftkit.config.checks.generation import generation_errors
from peftkit.config.checks.imbalance import imbalance_errors
from peftkit.config.checks.job import job_errors, judging_errors
from peftkit.config.checks.outputs import base_errors, output_errors
from peftkit.config.checks.outside import ood_errors
from peftkit.config.checks.paths import path_errors
from peftkit.config.checks.prediction import prediction_errors
from peftkit.config.checks.prompting import prompting_errors
from peftkit.config.checks.push import push_errors
from peftkit.config.checks.sampling import sampling_errors
from peftkit.config.checks.search import search_errors
from peftkit.config.checks.serving import serving_errors
from peftkit.config.checks.several_tasks import several_task_errors, single_task_errors
from peftkit.config.checks.start import start_errors
from peftkit.config.checks.task import kind_errors, task_errors
from peftkit.config.checks.upstream import UPSTREAM, upstream_errors
from peftkit.config.checks.values import range_errors, value_errors
from peftkit.config.errors import Refusal
from peftkit.config.run import RunConfig
from peftkit.config.secrets import secret_errors
from peftkit.config.several_tasks import one_task

__all__ = ["config_errors", "run_errors"]


def config_errors(config: Mapping[str, Any], config_dir: str | None = None) -> list[str]:
    """Return a message for everything that is wrong with a resolved config."""
    if secrets := list(secret_errors({**config, "-cd": config_dir})):  # other messages could show the secret
        return secrets
    tasks = config.get("tasks")
    if isinstance(tasks, list) and all(isinstance(task, Mapping) for task in tasks):
        return _errors_of_tasks(config, tasks, config_dir)
    found = [*value_errors(config), *upstream_errors(config), *decoding_setting_errors(config)]
    found += range_errors(config, {key for key, _ in found})
    messages = [message for _, message in found]
    if all(key.startswith(UPSTREAM) for key, _ in found):  # else the config has no typed form
        messages += run_errors(RunConfig.from_config(config, config_dir=config_dir))
    return messages


def _errors_of_tasks(config: Mapping[str, Any], tasks: list[Mapping[str, Any]], config_dir: str | None) -> list[str]:
    """Return the errors of each task alone, with its name where other tasks have none, then those of all together."""
    values = [*value_errors(config), *range_errors(config, set())]
    if own := [message for key, message in values if key.startswith("multitask")]:  # the others are those of each task
        return list(dict.fromkeys(own))
    found = {str(task.get("name")): config_errors(one_task(config, task), config_dir) for task in tasks}
    shared = set.intersection(*map(set, found.values()))
    messages = [message for message in found[next(iter(found))] if message in shared]
    messages += [
        Refusal(f"{name}: {message}", *getattr(message, "fix", ()))
        for name, errors in found.items()
        for message in errors
        if message not in shared
    ]
    return messages or several_task_errors(RunConfig.from_config(config, config_dir=config_dir))


def run_errors(run: RunConfig) -> list[str]:
    """Return a message for each combination that does not work; files are read at most at their beginning."""
    return [
        message
        for check in (
            base_errors, ood_errors, estimator_errors, decoding_errors, chat_errors,
            combination_errors, job_errors, task_errors, kind_errors, prompting_errors, imbalance_errors, path_errors,
            output_errors, column_errors, search_errors, generation_errors, judging_errors, prediction_errors,
            serving_errors,
            holdout_errors, bench_errors, sampling_errors, domain_errors, combine_errors, start_errors,
            export_errors,
            single_task_errors, push_errors,
        )
        for message in check(run)
    ]  # fmt: skip
