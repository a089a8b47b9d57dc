"""What a command loads: every package costs each command, and each process of a sweep, its import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable

import pytest

PACKAGES = {  # that a LoRA run of a classifier loads, beyond the standard library; others need a reason
    # of a run
    "accelerate", "aenum", "bitsandbytes", "datasets", "hydra", "numpy", "omegaconf", "pandas", "peft", "peftkit", "pyarrow",
    "regex", "rich", "safetensors", "scipy", "tokenizers", "torch", "tqdm", "transformers", "wrapt", "yaml", "jinja2",
    # loaded by these
    "PIL", "antlr4", "anyio", "attr", "certifi", "charset_normalizer", "click", "cloudpickle", "colorama", "cython_runtime",
    "dateutil", "dill", "filelock", "fsspec", "google", "h11", "hf_xet", "httpcore", "httpcore2", "httpx", "httpx2",
    "huggingface_hub", "idna", "markupsafe", "mpmath", "multiprocess", "packaging", "psutil", "pytz", "requests", "sentencepiece",
    "six", "sniffio", "sympy", "torchgen", "triton", "truststore", "typing_extensions", "urllib3", "xxhash",
}  # fmt: skip
SLOW = {  # a quarter of a second each, or more
    "scipy.stats", "torch._inductor.compile_fx", "torch._inductor.lowering", "functorch.compile",
}  # fmt: skip
CODE = """
import atexit, json, subprocess, sys

started, start = [], subprocess.Popen.__init__

def note(process, command, *arguments, **settings):
    started.append(command)
    start(process, command, *arguments, **settings)

atexit.register(lambda: print("\\n" + json.dumps([sorted(sys.modules), sys.executable in str(started)])))
from peftkit.cli import main
subprocess.Popen.__init__ = note
main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_lora_run_loads_only_the_packages_that_it_needs_in_one_process(
    tiny: Callable[..., list[str]],
) -> None:
    command = [sys.executable, "-c", CODE, *tiny("bert", "method=lora", "task=sst2")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names, starts_python = json.loads(done.stdout.splitlines()[-1])
    assert not starts_python  # the verifier is forked
    modules = set(names)
    packages = {name.partition(".")[0] for name in modules} - sys.stdlib_module_names
    assert {name for name in packages - PACKAGES if not name.startswith("_")} == set()
    assert modules & SLOW == set()
