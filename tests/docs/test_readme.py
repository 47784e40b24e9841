"""The README's commands parse, and its Python runs."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import transformer_xl.__main__
from bert import prepare_command
from bert.options import parse_options
from glue_eval.check_command import parse_check
from glue_eval.listing import parse_list
from glue_eval.options import command_parser as sweep_parser
from glue_eval.report_command import parse_report
from glue_eval.submit_command import parse_submit
from nlp_adan.integrations.huggingface import adan_options
from nlp_adan.race.options import optimizer_names, parse_race
from nlp_adan.training.recipe import word_value
from transformer_xl import options as language_models

PROJECT = Path(__file__).resolve().parents[2]
README = (PROJECT / "README.md").read_text(encoding="utf-8")
INLINE = r"`((?:TORCH_INDEX_URL=\S+ )?(?:\./run_|\.venv/bin/python |deepspeed |python |torchrun )[^`]*)`"


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def lines(text: str) -> list[str]:
    """The command lines of a page's bash blocks; a line that ends in a backslash goes on in the next."""
    joined = [block.replace("\\\n", " ") for block in blocks("bash", text)]
    return [line.strip() for block in joined for line in block.splitlines() if line.strip()]


def commands() -> list[str]:
    return [*lines(README), *re.findall(INLINE, README)]


def guides() -> list[tuple[str, str]]:
    return [(path.name, path.read_text(encoding="utf-8")) for path in sorted((PROJECT / "docs").glob("*.md"))]


OURS = re.compile(r"(?:[A-Z_]+=\S+ )*(\.venv/bin/)?(python|deepspeed|torchrun|srun torchrun|\./run_)\S* .*")


def guide_commands() -> list[tuple[str, str]]:
    """Of the guides, what calls a command of ours; other people's scripts and tools are left out."""
    inside = (
        "run_pretrain.py", "run_pretrain.sh", "run_race.py", "glue_eval", "benchmarks/", "bert.report",
        "-m transformer_xl",
    )  # fmt: skip
    return [
        (page, line)
        for page, text in guides()
        for line in lines(text)
        if OURS.fullmatch(line) and any(word in line for word in inside)
    ]


def check_pretraining(words: list[str]) -> None:
    """Parse the words after `run_pretrain.py` or `run_pretrain.sh`."""
    assert words[0] in ("bert", "prepare", *language_models.MODELS)
    if words[1:] == ["--help"]:
        return
    if words[0] == "prepare":
        prepare_command.command_parser().parse(words[1:])
    elif words[0] in language_models.MODELS:
        language_models.parse_options(words[0], words[1:])
    else:
        parse_options(words[1:])


def check_race(words: list[str]) -> None:
    """Parse the words after `run_race.py`."""
    family, *rest = words
    options, words_of_the_family = parse_race(rest)
    assert len(optimizer_names(options.optim)) > 1
    check_pretraining([family, *words_of_the_family, "--output_dir", options.output_dir])


def check_command(command: str) -> None:
    program, *rest = shlex.split(re.sub(r"^(?:[A-Z_]+=\S+ )+", "", command), comments=True)
    if "&" in rest:
        rest.remove("&")
    if program == "source":
        assert rest == [".venv/bin/activate"]
    elif program == "./run_pretrain.sh":
        if rest:
            check_pretraining(rest[rest.index("--") + 1 :] if "--" in rest else rest)
    elif program == "./run_tests.sh":
        assert (PROJECT / program).is_file()
    elif program.endswith("python") and rest[:3] == ["-m", "glue_eval", "submit"]:
        parse_submit(rest[3:])
    elif program.endswith("python") and rest[:3] == ["-m", "glue_eval", "report"]:
        parse_report(rest[3:])
    elif program.endswith("python") and rest[:3] == ["-m", "glue_eval", "check-data"]:
        parse_check(rest[3:])
    elif program.endswith("python") and rest[:3] == ["-m", "glue_eval", "list"]:
        parse_list(rest[3:])
    elif program.endswith("python") and rest[:2] == ["-m", "glue_eval"]:
        if rest[2:] != ["--help"]:
            glue, engine = sweep_parser().parse(rest[2:])
            assert glue.model and glue.seeds and engine.output_dir
    elif program.endswith("python") and rest[:2] == ["-m", "nlp_adan"]:
        assert word_value("--optim", rest) == "adan" and adan_options(word_value("--optim_args", rest))
    elif program.endswith("python") and rest[0] == "-m" and rest[1].endswith(".report"):
        assert len(rest) == 3
    elif program.endswith("python") and rest[:2] == ["-m", "transformer_xl"]:
        importlib.import_module(transformer_xl.__main__.COMMANDS[rest[2]])._parse(rest[3:])
    elif program.endswith("python") and rest[0] == "run_race.py":
        check_race(rest[1:])
    elif program.endswith("python") and rest[:2] == ["-m", "mkdocs"]:
        assert rest[2:] == ["serve"]
    elif rest[0].startswith("benchmarks/"):
        source = (PROJECT / rest[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in source for word in rest if word.startswith("--"))
    else:
        assert Path(program).name in ("deepspeed", "torchrun", "python", "srun")
        check_pretraining(rest[rest.index("run_pretrain.py") + 1 :])


@pytest.mark.parametrize("command", commands())
def test_a_command_parses(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    check_command(command)


@pytest.mark.parametrize(("page", "command"), guide_commands())
def test_a_guides_command_parses(page: str, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    check_command(command)


def test_there_are_commands_to_check() -> None:
    assert len(commands()) >= 10 and len(blocks("python")) == 2 and len(guide_commands()) >= 5


# Each in a process of its own, which has what they all import already: that takes most of the time.
FORKS = """
import json, os, sys, traceback

import deepspeed, evaluate, transformers  # ours are imported by the programs
for number, program in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.makedirs(str(number))
            os.chdir(str(number))
            exec(compile(program, f"<program {number}>", "exec"), {"__name__": "__main__"})
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    if os.waitpid(child, 0)[1]:
        print(f"failed:\\n{program}")
"""


def test_the_python_runs(tmp_path: Path) -> None:
    programs = list(
        dict.fromkeys(code for text in (README, *dict(guides()).values()) for code in blocks("python", text))
    )
    assert len(programs) >= 4
    run = subprocess.run(
        [sys.executable, "-c", FORKS], input=json.dumps(programs), cwd=tmp_path, env={"PYTHONPATH": str(PROJECT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0 and not run.stdout.count("failed:"), run.stdout + run.stderr
    assert len(list(tmp_path.iterdir())) == len(programs)


def test_the_files_that_it_names_exist() -> None:
    named = re.findall(r"`([a-z_]+(?:/[\w.]+)*(?:/|\.(?:py|sh|cff)))`", README)
    assert len(named) > 15
    for name in named:
        assert (PROJECT / name).exists() or name in (
            "integrations/",
            "corpora/",
            "modeling/",
            "pretraining/",
            "training/",
            "reporting/",
            "race/",
            "runs/",
            "recipes/",
            "download_glue_data.py",
            "run_glue.py",
        ), name
