"""A wheel, installed elsewhere, runs from another folder with all its recipes."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_wheel_runs_from_another_folder(tmp_path: Path) -> None:
    def run(*command: object, cwd: Path = tmp_path) -> str:
        return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, cwd=cwd).stdout

    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "peftkit/conf/config.yaml" in names
    assert "peftkit/recipes/lora_glue.yaml" in names
    assert "peftkit/generation/seeds/tasks.jsonl" in names
    assert "peftkit/data/examples/tickets.csv" in names
    assert not [name for name in names if name.startswith(("conf/", "recipes/"))]
    run(sys.executable, "-m", "venv", "--without-pip", "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", site, wheel)
    deps = next(path for path in map(Path, sys.path) if (path / "torch").is_dir())
    (site / "deps.pth").write_text(str(deps))  # the dependencies of this environment, after the wheel's own files
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = run(python, "-c", "import peftkit; print(peftkit.__file__)", cwd=elsewhere)
    assert str(site) in where
    assert "lora_glue" in run(python, "-m", "peftkit", "--help", cwd=elsewhere)
    assert "name: sst2" in run(python, "-m", "peftkit", "recipe=lora_glue", "task=sst2", "--cfg", "job", cwd=elsewhere)
    words = ["task=sst2", "model=minilm", "source=offline", "task.max_train_samples=32", "train.num_train_epochs=1"]
    run(python, "-m", "peftkit", "recipe=lora_glue", *words, cwd=elsewhere)
    assert list((elsewhere / "outputs").rglob("result.json"))
