"""The pool of tasks: filters candidates, and records every kept and rejected one with its reason."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from peftkit.config import Generate
from peftkit.generation.client import BudgetExceeded, GenerationClient, Journal
from peftkit.generation.filters import Rejection, check_instances, check_instruction
from peftkit.generation.generators import GenerationPrompt, Reply
from peftkit.generation.instruction_tasks import Instance, InstructionTask
from peftkit.generation.novelty import NoveltyIndex


@dataclass
class Candidate:
    """A generated instruction, and its provenance: numbers of requests, and the position in the first reply."""

    instruction: str
    provenance: dict[str, Any]
    is_classification: bool = False
    instances: Sequence[Instance] = ()


@dataclass
class TaskPool:
    """The seeds, the kept tasks, and the counts of rejections by reason.

    `overlap` returns the overlap of texts with evaluation sets, None without overlap.
    `show_progress` is called when a task was kept or rejected.
    """

    seeds: Sequence[InstructionTask]
    settings: Generate
    overlap: Callable[[Sequence[str]], object]
    kept_file: Journal
    rejected_file: Journal
    prefix: str = "generated"  # of the ids of new tasks
    kept: list[InstructionTask] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    instance_reasons: Counter[str] = field(default_factory=Counter)
    unprocessed: int = 0  # candidates that were left when the pool was full
    show_progress: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.novelty = NoveltyIndex(self.settings.max_rouge_l)
        for task in self.seeds:
            self.novelty.add(task.instruction, task.id)

    @property
    def is_full(self) -> bool:
        return len(self.kept) >= self.settings.num_instructions

    def check(self, instruction: str) -> Rejection | None:
        """Return why an instruction is rejected, by itself or in comparison with the pool."""
        return (
            check_instruction(instruction, self.settings.instruction_length, self.settings.blacklist)
            or self.check_novelty(instruction)
            or self._check_contamination(instruction)
        )

    def check_novelty(self, instruction: str) -> Rejection | None:
        similar = self.novelty.describe_similar(instruction)
        return None if similar is None else Rejection("similar", similar)

    def keep(self, candidate: Candidate) -> InstructionTask | None:
        """Keep a candidate with its valid instances; reject it and return None where it has none."""
        faults = [*zip(candidate.instances, check_instances(candidate.instances, candidate.instruction), strict=True)]
        overlaps = [
            (each, self._check_contamination(each.input, each.output)) for each, fault in faults if fault is None
        ]
        rejected = [(each, fault) for each, fault in faults + overlaps if fault is not None]
        for instance, rejection in rejected:
            self.reject(candidate, rejection, "instance", instance)
        instances = tuple(each for each, overlap in overlaps if overlap is None)
        if not instances:
            self.reject(candidate, Rejection("no_instance", f"{len(rejected)} faulty"))
            return None
        text = candidate.instruction
        words = "".join(letter if letter.isalnum() else " " for letter in text.lower()).split()
        task = InstructionTask(
            id=f"{self.prefix}_{len(self.kept):06d}",
            name="_".join(words[:5]),
            instruction=text,
            instances=instances,
            is_classification=candidate.is_classification,
        )
        self.kept_file.append({**asdict(task), "made": candidate.provenance})
        self.kept.append(task)
        self.novelty.add(text, task.id)
        self.show_progress()
        return task

    def reject(
        self, candidate: Candidate, rejection: Rejection, what: str = "task", instance: Instance | None = None
    ) -> None:
        (self.reasons if what == "task" else self.instance_reasons)[rejection.reason] += 1
        texts = {} if instance is None else asdict(instance)
        row = {"what": what, "instruction": candidate.instruction, **texts, **rejection._asdict()}
        self.rejected_file.append({**row, "made": candidate.provenance})
        self.show_progress()

    def counts(self) -> dict[str, Any]:
        return {
            "kept": len(self.kept),
            "rejected": self.reasons.total(),
            "rejected_instances": self.instance_reasons.total(),
            "reasons": dict(self.reasons.most_common()),
            "instance_reasons": dict(self.instance_reasons.most_common()),
            "undecided": self.unprocessed,
            "compared_pairs": self.novelty.compared,
        }

    def sync(self) -> None:
        self.kept_file.sync()
        self.rejected_file.sync()

    def _check_contamination(self, *texts: str) -> Rejection | None:
        overlap = self.overlap(texts)
        return None if overlap is None else Rejection("contaminated", str(overlap))


def fill_pool(
    pool: TaskPool,
    client: GenerationClient,
    algorithm: Callable[[TaskPool, GenerationClient], Iterator[None]],
) -> str:
    """Run the rounds of an algorithm until the pool is full or a limit is reached; return the name of what ended it.

    Args:
        algorithm: yields after each round, and ends after the last one.
    """
    rounds_without_new, rounds = 0, algorithm(pool, client)
    try:
        while not pool.is_full:
            if rounds_without_new >= pool.settings.patience:
                return "patience"
            count = len(pool.kept)
            if next(rounds, "end") is not None:
                return "evolutions"
            pool.sync()
            rounds_without_new = 0 if len(pool.kept) > count else rounds_without_new + 1
    except BudgetExceeded as error:
        return str(error)
    return "num_instructions"


def replies_to(
    client: GenerationClient, candidates: Sequence[Candidate], prompts: Sequence[GenerationPrompt], step: str
) -> Iterator[tuple[Candidate, Reply]]:
    """Yield each candidate with the reply to its prompt, whose number its provenance gets as `step`."""
    for candidate, reply in zip(candidates, client(prompts), strict=True):
        candidate.provenance[step] = reply.number
        yield candidate, reply
