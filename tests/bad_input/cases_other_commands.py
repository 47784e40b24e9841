"""Cases for run_race.py, checkpoints, other people's scripts, language models' commands and benchmarks."""

from __future__ import annotations

from tests.bad_input.case import Case

LONG = "o" * 300
RACE = [
    Case("nothing", "", ("say first what to train: bert",)),
    Case("an unknown family", "brt --recipe tiny", ("'brt'", "did you mean 'bert'?")),
    Case("no seeds", "bert --recipe tiny --seeds 0 --output_dir out", ("--seeds: 0 is out of range; give",)),
    Case("a rate of its own", "bert --recipe tiny --learning_rate 1 --output_dir out",
         ("--learning_rate: the race sets it for every run; use --lr",)),
    Case("an empty optimizer", "bert --recipe tiny --optim adamw,,adan --output_dir out", ("empty name",)),
    Case("no rate", "bert --recipe tiny --lr 0 --output_dir out", ("--lr: 0 is out of range; give numbers above 0",)),
    Case("an unknown recipe", "bert --recipe tyni --output_dir out", ("'tyni'", "did you mean 'tiny'?")),
    Case("an unknown option", "bert --recipe tiny --sedes 3 --output_dir out", ("did you mean '--seeds'?",)),
    Case("a file for the output folder", "bert --recipe tiny --output_dir file",
         ("--output_dir: 'file' is a file; choose",)),
    Case("a folder of others", "bert --recipe tiny --output_dir thesis",
         ("'thesis' is not empty and holds no race; choose",)),
    Case("a length without a number", "bert --recipe tiny --budget steps:many --data prepared --block_size 32 "
         "--output_dir out", ("--budget: 'many' is not a number; give steps:N",)),
]  # fmt: skip

OUT = "--output_dir out"
CHECKPOINT = [
    Case("nothing", "", ("name a command: inspect", "--help`")),
    Case("an unknown command", "inspec run", ("'inspec'", "did you mean 'inspect'?"), is_process=True),
    Case("no folder", "verify", ("required: DIR",)),
    Case("a folder that is not there", "inspect rum", ("there is no folder 'rum'", "did you mean 'run'?")),
    Case("a file", "inspect file", ("'file' is a file; name a checkpoint's folder",)),
    Case("a folder of others", "verify thesis", ("'thesis' is neither a checkpoint", "name another folder")),
    Case("a name that is too long", f"inspect {LONG}", ("ooo", "File name too long")),
    Case("an unknown option", "inspect run --jsn", ("unknown option '--jsn'", "did you mean '--json'?")),
    Case("a damaged manifest", "inspect checkpoint-9",
         ("manifest.json is damaged", "take another"), {"checkpoint-9/manifest.json": "{"}),
    Case("a manifest that is a list", "inspect checkpoint-9",
         ("manifest.json is damaged", "take another"), {"checkpoint-9/manifest.json": "[]"}),
    Case("no output folder", "export run", ("required: --output_dir",)),
    Case("an unknown number format", f"export run {OUT} --dtype float16", ("--dtype: unknown value 'float16'",)),
    Case("an output folder in use", "export run --output_dir thesis",
         ("'thesis' exists already; choose a new folder",)),
    Case("a file for the output folder", "export run --output_dir file",
         ("'file' exists already; choose a new folder",)),
    Case("no ranks", f"reshard run --world_size 0 --stage 1 {OUT}", ("--world_size: 0 is no number of ranks",)),
    Case("words for ranks", f"reshard run --world_size two --stage 1 {OUT}", ("--world_size: invalid", "'two'")),
    Case("no such stage", f"reshard run --world_size 2 --stage 7 {OUT}", ("--stage: unknown value '7'; possible",)),
    Case("into itself", "reshard run --world_size 2 --stage 1 --output_dir run", ("'run' exists already; choose",)),
]  # fmt: skip

ADAN = "train.py --output_dir out --use_cpu --optim adan"


def deepspeed(what: str, text: str, *told: str) -> Case:
    """A mistake in the DeepSpeed configuration of a script."""
    words = "train.py --output_dir out --use_cpu --deepspeed ds.json"
    return Case(f"DeepSpeed: {what}", words, ("--deepspeed: ds.json", *told), {"ds.json": text})


def block(params: str) -> str:
    """A configuration with Adan's parameters."""
    return f'{{"optimizer": {{"type": "Adan", "params": {params}}}}}'


SCRIPT = [
    Case("nothing", "", ("name a script", "usage: python -m nlp_adan SCRIPT.py")),
    Case("a script that is not there", "tran.py --optim adan", ("script 'tran.py' does not exist: name",)),
    Case("a folder for a script", "thesis", ("script 'thesis' does not exist: name a Python file",)),
    Case("an unknown DeepSpeed file of ours", "--ds-config zero-2", ("'zero-2'", "did you mean 'zero2'?")),
    Case("ours, not here", "train.py --deepspeed ds_configs/zero2.json", ("ds_configs/zero2.json' here",
         "--ds-config zero2`")),
    Case("an option misspelled", f"{ADAN} --optim_args bta1=0.9", ("'bta1=0.9'", "did you mean 'beta1'?"),
         is_process=True),
    Case("an option without a value", f"{ADAN} --optim_args beta1", ("'beta1' has no value; write `beta1=VALUE`",)),
    Case("a beta above 1", f"{ADAN} --optim_args=beta3=1.5", ("beta3 must be in [0, 1), got 1.5",)),
    Case("words for a number", f"{ADAN} --optim_args beta1=high", ("beta1 must be a number, got 'high'",)),
    Case("no such number format", f"{ADAN} --optim_args state_dtype=int8", ("state_dtype must be float32 or bf",)),
    deepspeed("no JSON", '{"optimizer": {\n"type": "Adan"', ":2: not JSON", "mend the file"),
    deepspeed("an unknown parameter", block('{"beta1": 0.9}'), '"beta1" is not an option of Adan', "'betas'?"),
    deepspeed("a beta above 1", block('{"lr": 1e-3, "betas": [2, 0.9, 0.9]}'), "beta1 must be in [0, 1), got 2"),
    deepspeed("a rate in words", block('{"lr": "fast"}'), "lr", "fast"),
    deepspeed("one beta", block('{"lr": 1e-3, "betas": 0.9}'), "betas", "0.9"),
    deepspeed("clipping among the parameters", block('{"max_grad_norm": 1.0}'), '"gradient_clipping"'),
]  # fmt: skip

TRANSFORMER_XL = [
    Case("an unknown command", "prepar", ("'prepar'", "did you mean 'prepare'?")),
    Case("prepare: a folder of others", "prepare --data text.txt --min_count 2 --output_dir thesis",
         ("thesis is there and holds no prepared stream: name a new folder",)),
    Case("evaluate: no such model", "evaluate --model no/such --data text.txt", ("there is no folder 'no/such'",)),
    Case("evaluate: another kind of model", "evaluate --model model --data text.txt", ("'model' is a bert; name a",)),
    Case("evaluate: no such text", "evaluate --model lm --data no.txt", ("--data 'no.txt' is not there: name a file",)),
    Case("evaluate: no batch", "evaluate --model lm --data text.txt --batch_size 0", ("--batch_size: 0 is out of",)),
    Case("generate: a share of 2", "generate --model lm --prompt a --top_p 2", ("--top_p: 2 is out of range",)),
    Case("convert: no such file", "convert no.pt --config no.json --output_dir out",
         ("--config: no file 'no.json' that can be read",)),
]  # fmt: skip

# Told before anything is measured, not after it.
NO_FIGURES = [
    Case(
        "a folder for the figures", "--json thesis", ("--json: cannot write 'thesis' (Is a directory); name another",)
    ),
    Case("figures inside a file", "--json file/figures.json", ("--json: cannot write 'file/figures.json'", "name")),
]
BENCHMARKS = {
    "optimizer_step": [
        *NO_FIGURES,
        Case("no layers", "--layers 0", ("--layers must be 1 or more, got 0",), is_process=True),
    ],
    "low_precision": NO_FIGURES,
    "scaling": NO_FIGURES,
}
