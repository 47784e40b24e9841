"""The README's commands parse, and its Python runs."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import glue_eval.__main__
from bert import pretrain
from nlp_adan.integrations.huggingface import adan_options
from nlp_adan.training.recipe import word_value

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
INLINE = r"`((?:TORCH_INDEX_URL=\S+ )?(?:\./run_|\.venv/bin/python |deepspeed |python |torchrun )[^`]*)`"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[str]:
    in_blocks = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [*in_blocks, *re.findall(INLINE, README)]


def check_pretraining(words: list[str]) -> None:
    """Parse the words after `run_pretrain.py` or `run_pretrain.sh`."""
    assert words[0] == "bert"
    if words[1:] != ["--help"]:
        pretrain.parse_options(words[1:])


@pytest.mark.parametrize("command", commands())
def test_a_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    program, *rest = shlex.split(re.sub(r"^[A-Z_]+=\S+ ", "", command))
    if program == "source":
        assert rest == [".venv/bin/activate"]
    elif program == "./run_pretrain.sh":
        if rest:
            check_pretraining(rest[rest.index("--") + 1 :] if "--" in rest else rest)
    elif program == "./run_tests.sh":
        assert (PROJECT / program).is_file()
    elif program.endswith("python") and rest[:2] == ["-m", "glue_eval"]:
        if rest[2:] != ["--help"]:
            glue, engine = glue_eval.__main__.command_parser().parse(rest[2:])
            assert glue.model and glue.seeds and engine.output_dir
    elif program.endswith("python") and rest[:2] == ["-m", "nlp_adan"]:
        assert word_value("--optim", rest) == "adan" and adan_options(word_value("--optim_args", rest))
    elif rest[0].startswith("benchmarks/"):
        source = (PROJECT / rest[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in rest if word.startswith("--"))
    else:
        assert Path(program).name in ("deepspeed", "torchrun", "python")
        check_pretraining(rest[rest.index("run_pretrain.py") + 1 :])


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10 and len(blocks("python")) == 2


def guides() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((PROJECT / "docs").glob("*.md"))]


@pytest.mark.parametrize(
    "program", [*blocks("python"), *(code for text in guides() for code in blocks("python", text))]
)
def test_the_python_runs(program: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(PROJECT)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_the_files_that_it_names_exist() -> None:
    named = re.findall(r"`([a-z_]+(?:/[\w.]+)*(?:/|\.(?:py|sh|cff)))`", README)
    assert len(named) > 15
    for name in named:
        assert (PROJECT / name).exists() or name in (
            "integrations/",
            "training/",
            "reporting/",
            "recipes/",
            "download_glue_data.py",
        ), name
