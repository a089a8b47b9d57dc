"""The plots and the LaTeX table show the first board, with text of runs unchanged."""

from __future__ import annotations

import re
import shutil
import string
import subprocess
from pathlib import Path

import pytest
from helpers.recorded_runs import write_run
from helpers.synthetic_board import make_board

from peftkit.leaderboard.heatmap import MAX_TASKS
from peftkit.leaderboard.latex import write_latex
from peftkit.leaderboard.plots import write_plots
from peftkit.leaderboard.reading import collect
from peftkit.leaderboard.stats import board_entries

FILES = ["heatmap.png", "heatmap.svg", "pareto.png", "pareto.svg"]


def test_plots_show_the_real_board_alone(tmp_path: Path) -> None:
    make_board(tmp_path / "runs", seeds=2, predictions=False)
    rows = board_entries(collect([tmp_path / "runs"]))
    write_plots(rows, ["a"] * len(rows), tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.*")) == FILES
    heat = (tmp_path / "heatmap.svg").read_text()
    assert rows[0].board in heat
    assert "OFFLINE" not in heat
    assert "linear_probe" in heat
    assert (tmp_path / "pareto.png").read_bytes().startswith(b"\x89PNG")


def test_equal_entries_give_equal_plots(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", method="$x_{ 表 </svg>")
    rows = board_entries(collect([tmp_path / "runs"]))
    for name in ("one", "two"):
        write_plots(rows, [""], tmp_path / name)
    assert (tmp_path / "one" / "heatmap.svg").read_text() == (tmp_path / "two" / "heatmap.svg").read_text()
    assert "$x_{ 表 &lt;/svg&gt;" in (tmp_path / "one" / "heatmap.svg").read_text()


def test_a_heat_map_of_many_tasks_has_the_first_and_counts_them(tmp_path: Path) -> None:
    for number in range(MAX_TASKS + 1):
        write_run(tmp_path / "runs", str(number), task=f"task{number:02}")
    rows = board_entries(collect([tmp_path / "runs"]))
    write_plots(rows, [""] * len(rows), tmp_path)
    heat = (tmp_path / "heatmap.svg").read_text()
    assert f"({MAX_TASKS} of {MAX_TASKS + 1} tasks)" in heat
    assert heat.count(">task") == MAX_TASKS


def test_plots_of_an_earlier_board_do_not_stay(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a")
    write_plots(board_entries(collect([tmp_path / "runs"])), [""], tmp_path)
    write_plots([], [], tmp_path)
    assert not list(tmp_path.glob("*.svg"))


def test_an_error_is_drawn_in_its_own_unit(tmp_path: Path) -> None:
    for method, value in (("lora", 3.25), ("full", 3.0)):
        write_run(tmp_path / "runs", method, method=method, value=value, metrics={"mean_squared_error": False})
    rows = board_entries(collect([tmp_path / "runs"]))
    write_plots(rows, ["a", "b"], tmp_path)
    assert ">3.25<" in (tmp_path / "heatmap.svg").read_text()
    write_latex(rows, ["a", "b"], tmp_path / "board.tex")
    assert r"full & \textbf{3}\textsuperscript{a}" in (tmp_path / "board.tex").read_text()


def test_latex_sets_the_best_in_bold_only_where_it_is_not_tied(tmp_path: Path) -> None:
    for method, value in {"full": 0.9, "lora": 0.8}.items():
        for seed in (0, 1):
            write_run(tmp_path / "runs", f"{method}{seed}", method=method, seed=seed, value=value + seed / 100)
    rows = board_entries(collect([tmp_path / "runs"]))
    write_latex(rows, ["a", "b"], tmp_path / "apart.tex")
    write_latex(rows, ["a", "a"], tmp_path / "tied.tex")
    assert r"full & \textbf{90.5} $\pm$ 0.7\textsuperscript{a} \\" in (tmp_path / "apart.tex").read_text()
    assert r"full & 90.5 $\pm$ 0.7\textsuperscript{a} \\" in (tmp_path / "tied.tex").read_text()


def test_text_of_a_run_is_no_latex(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", method="[x] \\input{a}_% & # $ ~^<")
    write_latex(board_entries(collect([tmp_path / "runs"])), [""], tmp_path / "board.tex")
    lines = (tmp_path / "board.tex").read_text().splitlines()
    assert (
        r"{[}x{]} \textbackslash{}input\{a\}\_\% \& \# \$ \textasciitilde{}\textasciicircum{}\textless{} & 50.0 \\"
        in lines
    )


MACROS = {r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^", r"\textless{}": "<",
          r"\textgreater{}": ">", r"\textbar{}": "|", "{[}": "[", "{]}": "]", "{*}": "*"}  # fmt: skip


def test_every_sign_of_a_name_is_read_by_latex_as_that_sign(tmp_path: Path) -> None:
    write_run(tmp_path / "runs", "a", method=f"a {string.punctuation} z")
    write_latex(board_entries(collect([tmp_path / "runs"])), [""], tmp_path / "board.tex")
    (line,) = (line for line in (tmp_path / "board.tex").read_text().splitlines() if line.endswith(r"z & 50.0 \\"))
    name = line.removesuffix(r" & 50.0 \\")
    special = "".join(map(re.escape, r"#$%&_{}\~^<>|[]*"))
    tokens = re.findall(rf"\\text[a-z]+{{}}|\\[#$%&_{{}}]|{{[][*]}}|[^{special}]|.", name)
    assert not [token for token in tokens if len(token) == 1 and token in special]  # it would be obeyed
    read = "".join(MACROS.get(token, token[-1]) for token in tokens)
    assert read == f"a {string.punctuation} z"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX: apt-get install texlive-latex-recommended")
@pytest.mark.slow
def test_latex_itself_takes_the_table(tmp_path: Path) -> None:
    make_board(tmp_path / "runs", seeds=2, predictions=False)
    write_run(tmp_path / "runs", "odd", method=f"a {string.punctuation} z")
    rows = board_entries(collect([tmp_path / "runs"]))
    write_latex(rows, ["a"] * len(rows), tmp_path / "board.tex")
    lines = [r"\documentclass{article}", r"\usepackage{booktabs}", r"\begin{document}\input{board}\end{document}"]
    (tmp_path / "paper.tex").write_text("\n".join(lines))
    subprocess.run(["pdflatex", "-halt-on-error", "paper.tex"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "paper.pdf").is_file()
