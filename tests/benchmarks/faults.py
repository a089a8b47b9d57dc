"""Killed commands, repeated: whether they end like commands that were not killed; the figures of docs/results/reliability.md.

python tests/benchmarks/faults.py OUT [images|kills ...] [--kinds lora full] [--kills 100]       # hours; Linux

images: what a kill at every file operation of a command leaves of its folder (tests/helpers/crash_images.py): all of most
kinds, a seeded tenth of prefix and qlora. kills: SIGKILL at random moments, up to three times before the command may end.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers.fork_server import ForkServer
from helpers.unbroken import KINDS, command_of, healed, record

TENTH = ("prefix", "qlora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("what", nargs="*", default=["images", "kills"], choices=["images", "kills"])
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS))
    parser.add_argument("--kills", type=int, default=100)
    given = parser.parse_args()
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
        folder = work / kind
        images, expected = record(server, kind, checkpoint, folder)
        chosen = range(len(images))
        if kind in TENTH:
            chosen = random.Random(0).sample(chosen, -(-len(images) // 10))  # type: ignore[assignment]
        for number in chosen if "images" in given.what else ():
            if ("images", kind, number) not in done:
                images[number].write(folder / "out")
                ended, wrong = healed(server, kind, checkpoint, folder, expected)
                yield {
                    "what": "images", "kind": kind, "number": number, "of": len(images),
                    "operation": images[number].operation, "seconds": ended.seconds, "wrong": wrong,
                }  # fmt: skip
        shutil.rmtree(folder / "out")
        (folder / "out").mkdir()
        whole, _ = healed(server, kind, checkpoint, folder, expected)
        for number in range(-(-given.kills // len(given.kinds))) if "kills" in given.what else ():
            if ("kills", kind, number) not in done:
                yield kill(server, kind, checkpoint, folder, expected, number, whole.seconds)
    server.close()


def kill(
    server: ForkServer, kind: str, checkpoint: Path, folder: Path, expected: dict[str, Any], number: int, seconds: float
) -> dict[str, Any]:
    """Kill a command at one to three random moments, then let it end."""
    generator, out = random.Random(f"{kind} {number}"), folder / "out"
    shutil.rmtree(out)
    out.mkdir()
    moments = [generator.uniform(0.02, seconds) for _ in range(generator.randint(1, 3))]
    codes = [server.run(command_of(kind, checkpoint, out), folder, limit=moment).code for moment in moments]
    ended, wrong = healed(server, kind, checkpoint, folder, expected)
    killed = sum(code == -9 for code in codes)
    return {
        "what": "kills", "kind": kind, "number": number, "killed": killed, "seconds": ended.seconds,
        "wrong": wrong + [f"killed, exit code {code}" for code in codes if code not in (0, -9)],
    }  # fmt: skip


def table(tried: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table in Markdown."""
    yield "| kind | images tried | of | kills | faults |\n|---|---|---|---|---|"
    for kind in dict.fromkeys(each["kind"] for each in tried):
        images, kills = (
            [each for each in tried if (each["what"], each["kind"]) == (what, kind)] for what in ("images", "kills")
        )
        of = images[0]["of"] if images else 0
        killed, faults = sum(each["killed"] for each in kills), sum(bool(each["wrong"]) for each in images + kills)
        yield f"| {kind} | {len(images)} | {of} | {killed} in {len(kills)} commands | {faults} |"


if __name__ == "__main__":
    main()
