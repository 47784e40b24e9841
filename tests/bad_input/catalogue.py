"""The table of all cases, by the command that they are given to."""

from __future__ import annotations

from tests.bad_input import cases_data, cases_glue, cases_options, cases_other_commands
from tests.bad_input.case import Case, Command

FORKSERVER = "nlp_adan.runs.start_server"  # starts a process that imports while this one does
COMMANDS = {
    "run_pretrain.py": Command(("run_pretrain.py",), "run_pretrain", "main"),
    "run_pretrain.py bert": Command(("run_pretrain.py", "bert"), "run_pretrain", "main"),
    "run_pretrain.py transformer_xl": Command(("run_pretrain.py", "transformer_xl"), "run_pretrain", "main"),
    "run_pretrain.py lstm": Command(("run_pretrain.py", "lstm"), "run_pretrain", "main"),
    "run_pretrain.py prepare": Command(("run_pretrain.py", "prepare"), "run_pretrain", "main"),
    "python -m glue_eval": Command(
        ("-m", "glue_eval"), "glue_eval.__main__", "command", True, kept_still=(FORKSERVER,)
    ),
    "run_race.py": Command(("run_race.py",), "run_race", "main", kept_still=("nlp_adan.race.setup.start_server",)),
    "python -m nlp_adan.training.checkpoint": Command(
        ("-m", "nlp_adan.training.checkpoint"), "nlp_adan.training.checkpoint.__main__", "command"
    ),
    "python -m nlp_adan SCRIPT.py": Command(("-m", "nlp_adan"), "nlp_adan.__main__", "main"),
    "python -m transformer_xl": Command(("-m", "transformer_xl"), "transformer_xl.__main__", "main"),
    **{
        f"benchmarks/{name}.py": Command((f"benchmarks/{name}.py",), f"benchmarks.{name}", "main", is_guarded=False)
        for name in cases_other_commands.BENCHMARKS
    },
}

CATALOGUE: dict[str, list[Case]] = {
    "run_pretrain.py": cases_options.DOOR,
    "run_pretrain.py bert": [*cases_options.BERT, *cases_data.BERT],
    "run_pretrain.py transformer_xl": [*cases_options.TRANSFORMER_XL, *cases_data.TRANSFORMER_XL],
    "run_pretrain.py lstm": cases_options.LSTM,
    "run_pretrain.py prepare": cases_data.PREPARE,
    "python -m glue_eval": cases_glue.GLUE,
    "run_race.py": cases_other_commands.RACE,
    "python -m nlp_adan.training.checkpoint": cases_other_commands.CHECKPOINT,
    "python -m nlp_adan SCRIPT.py": cases_other_commands.SCRIPT,
    "python -m transformer_xl": cases_other_commands.TRANSFORMER_XL,
    **{f"benchmarks/{name}.py": cases for name, cases in cases_other_commands.BENCHMARKS.items()},
}
