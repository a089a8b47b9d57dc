"""The record of a job: which keys it reads, what it needs and writes, and the function that runs it."""

from dataclasses import dataclass
from typing import Literal

Requirement = Literal["required", "optional", "no"]


@dataclass(frozen=True)
class Job:
    """One value of `job=`. A new job is a record here and a module in `peftkit.jobs`.

    `reads` lists the keys and sections that the job reads; None means those of a training run. `keys` are read only by
    the jobs that list them. Any other key that the user sets is refused, with `ignores` as the reason.
    `reads_without_run` are added where `run=` is not set. `writes` is "folder", the allowed endings of `output=`, or
    None where there is no `output=`.
    """

    name: str
    summary: str
    entry: str  # "module:function"; the function takes a RunConfig
    reads: tuple[str, ...] | None = None
    keys: tuple[str, ...] = ()
    reads_without_run: tuple[str, ...] = ()
    ignores: str = "the rest comes from run=DIR"
    run: Requirement = "no"  # a finished run folder
    runs: Requirement = "no"  # several of them
    input: Requirement = "no"
    writes: tuple[str, ...] | Literal["folder"] | None = None
    loads_model: bool = True  # False: it starts without torch
    trains: bool = False  # trains the chosen model, method and task, or plans it
    several_processes: bool = False  # torchrun and accelerate launch may start it; other jobs are refused there
    generates: bool = True  # False: does not need the data that job=generate makes
    guesses: tuple[str, ...] = ()  # keys that may be missing, as the job finds their values in the data
    default_task: str | None = None  # where task.dataset is set, and neither task nor recipe
