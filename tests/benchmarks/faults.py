"""Killed commands, repeated: whether they end like commands that were not killed; the figures of docs/results/reliability.md.

python tests/benchmarks/faults.py OUT [images|kills|pairs|disks|writes ...] [--kinds lora full] [--kills 100]     # hours; Linux, root

images: what a kill at every file operation of a command leaves of its folder (tests/helpers/crash_images.py): all of most
kinds, a seeded tenth of prefix and qlora; the kind torchrun has two processes, both of which are killed. kills: SIGKILL at random moments, up to three times before the command may end.
pairs: the same command twice at once. disks: file systems of 30 sizes, enlarged before the command is repeated. writes: an
input/output error at each write of Python code. The last three are those of lora, pairs also of a sweep.
Each try is stored in OUT/tries.jsonl when it is made, and the same command goes on after those; without faults the tables
are printed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.disks import remount, small_disk
from helpers.fork_server import Finished, ForkServer
from helpers.simultaneous import run_together
from helpers.unbroken import KINDS, Unbroken, differences, outcome

TENTH = ("prefix", "qlora")
PARTS = ("images", "kills", "pairs", "disks", "writes")
PAIRS = {"lora": 14, "sweep": 6}
SIZES = [round(4 * 1.24**number) for number in range(30)]  # kB, to 2,055


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--kills", type=int, default=100)
    given = parser.parse_args()
    given.what = given.what or PARTS
    assert {*given.what} <= {*PARTS}, f"one of {PARTS}"
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / "tries.jsonl"
    tried = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    with tempfile.TemporaryDirectory() as name:
        for each in tries(given, Path(name), {(each["what"], each["kind"], each["number"]) for each in tried}):
            tried.append(each)
            with file.open("a") as lines:
                lines.write(json.dumps(each) + "\n")
            if each["wrong"]:
                print(f"FAULT {each}", flush=True)
    print("\n".join(table(tried)))
    sys.exit(any(each["wrong"] for each in tried))


def tries(given: argparse.Namespace, work: Path, done: set[tuple[str, str, int]]) -> Iterator[dict[str, Any]]:
    from peftkit.data.miniglue import sentences
    from peftkit.models.tiny import tiny_checkpoints

    checkpoint = tiny_checkpoints(work / "checkpoints", list(sentences(300)))["bert"]
    server = ForkServer(work / "server")
    for kind in given.kinds:
        command = Unbroken.record(server, kind, checkpoint, work / kind)
        images = command.images
        chosen = range(len(images))
        if kind in TENTH:
            chosen = random.Random(0).sample(chosen, -(-len(images) // 10))  # type: ignore[assignment]
        for number in chosen if "images" in given.what else ():
            if ("images", kind, number) not in done:
                images[number].write(command.out)
                ended, wrong = command.healed()
                yield {
                    "what": "images", "kind": kind, "number": number, "of": len(images),
                    "operation": images[number].operation, "seconds": ended.seconds, "wrong": wrong,
                }  # fmt: skip
        clear(command.out)
        whole, _ = command.healed()
        others: dict[str, tuple[int, Callable[[int], dict[str, Any]]]] = {
            "kills": (-(-given.kills // len(given.kinds)), partial(kill, command, whole.seconds)),
            "pairs": (PAIRS.get(kind, 0), partial(pair, command)),
        }
        if kind == "lora":
            others["disks"] = len(SIZES), partial(disk, command)
            others["writes"] = writes(command), partial(write, command)
        for what, (count, attempt) in others.items():
            for number in range(count) if what in given.what else ():
                if (what, kind, number) not in done:
                    clear(command.out)
                    yield {"what": what, "kind": kind, "number": number, "of": count, **attempt(number)}
    server.close()


def clear(out: Path) -> None:
    shutil.rmtree(out)
    out.mkdir()


def kill(command: Unbroken, seconds: float, number: int) -> dict[str, Any]:
    """Kill a command at one to three random moments of its seconds, then let it end."""
    generator = random.Random(f"{command.kind} {number}")
    moments = [generator.uniform(0.02, seconds) for _ in range(generator.randint(1, 3))]
    codes = [command.run(limit=moment).code for moment in moments]
    ended, wrong = command.healed()
    wrong += [f"killed, exit code {code}" for code in codes if code not in (0, -9)]
    return {"killed": sum(code == -9 for code in codes), "seconds": ended.seconds, "wrong": wrong}


def pair(command: Unbroken, number: int) -> dict[str, Any]:
    """Start a command twice, up to two seconds apart."""
    arguments, second = command.command(), random.Random(number).uniform(0, 2)
    ended = run_together(command.server, command.folder, (0, arguments), (second, arguments), limit=600)
    trained = sum(" -> " in line for each in ended for line in each.stderr.splitlines() if " on mrpc, " in line)
    wrong = [f"exit code {each.code}: {each.stderr[-500:]}" for each in ended if each.code]
    wrong += [] if trained == len(command.expected) else [f"{trained} runs were trained, of {len(command.expected)}"]
    return {"wrong": wrong or differences(outcome(command.out), command.expected)}


def disk(command: Unbroken, number: int) -> dict[str, Any]:
    """Run on a file system of a size that may be too small, then on a larger one."""
    with small_disk(command.out, f"{SIZES[number]}k") as out:
        first = command.run()
        remount(out, "size=64m")
        ended, wrong = command.healed()
    return {"code": first.code, "seconds": ended.seconds, "wrong": told(first, "No space left on device") + wrong}


def writes(command: Unbroken) -> int:
    """Return the number of writes of a command."""
    clear(command.out)
    ended = failing(command, -1)
    assert ended.code == 0, ended.output
    return int(ended.stdout.rpartition("writes: ")[2])


def failing(command: Unbroken, number: int) -> Finished:
    arguments = [str(number), "EIO", str(command.out), *command.command()]
    return command.server.run(arguments, command.folder, limit=600, entry="helpers.disks:fail_at")


def write(command: Unbroken, number: int) -> dict[str, Any]:
    """Fail at a write, then at none."""
    first = failing(command, number)
    ended, wrong = command.healed()
    return {"code": first.code, "seconds": ended.seconds, "wrong": told(first, "Input/output error") + wrong}


def told(ended: Finished, cause: str) -> list[str]:
    """Return what is wrong with the end of a command on a disk that may have failed."""
    wrong = ["a traceback"] if "Traceback" in ended.output else []
    wrong += [] if ended.code in (0, 1) else [f"exit code {ended.code}"]
    return wrong + ([f"without its cause: {ended.stderr[-300:]}"] if ended.code and cause not in ended.output else [])


def table(tried: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| what | kind | tried | of | notes | faults |\n|---|---|---|---|---|---|"
    for what, kind in dict.fromkeys((each["what"], each["kind"]) for each in tried):
        these = [each for each in tried if (each["what"], each["kind"]) == (what, kind)]
        notes = f"{sum(each.get('killed', 0) for each in these)} kills" if what == "kills" else ""
        if what in ("disks", "writes"):
            notes = f"{sum(each['code'] == 1 for each in these)} ended with exit code 1"
        faults = sum(bool(each["wrong"]) for each in these)
        yield f"| {what} | {kind} | {len(these)} | {these[0].get('of', '')} | {notes} | {faults} |"


if __name__ == "__main__":
    main()
