"""Cases for `python -m glue_eval`: run, check-data, report, submit, list."""

from __future__ import annotations

import json

from tests.bad_input.case import Case

RUN = "--model model --data glue --tasks RTE --allow_partial --output_dir out"
HEADER = "index\tsentence1\tsentence2\tlabel\n"
ROWS = {"train": f"{HEADER}0\ta\tb\tentailment\n1\ta\tb\tnot_entailment\n", "dev": f"{HEADER}0\ta\tb\tentailment\n",
        "test": "index\tsentence1\tsentence2\n0\ta\tb\n"}  # fmt: skip


def run(what: str, words: str, *told: str, **files: str | bytes) -> Case:
    """A mistake in the words after those of a good run."""
    return Case(what, f"{RUN} {words}", told, {f"{name}.yaml": text for name, text in files.items()})


def config(what: str, text: str | bytes, *told: str) -> Case:
    """A mistake in a file of one's own."""
    return Case(f"--config: {what}", f"{RUN} --config mine.yaml", ("mine.yaml", *told), {"mine.yaml": text})


def task_file(what: str, train: str | bytes | None, *told: str, checks: bool = False) -> Case:
    """A mistake in RTE/train.tsv, told by a run, or by `check-data`, which lists mistakes on standard output."""
    files = {f"d/RTE/{name}.tsv": text for name, text in ROWS.items()} | {"d/RTE/train.tsv": train}
    words = "--data d --tasks RTE --allow_partial"
    where = "check-data: " if checks else ""
    words = f"check-data {words}" if checks else f"--model model --output_dir out {words}"
    return Case(f"{where}train.tsv: {what}", words, told, files)  # fmt: skip


def vocabulary(last: int) -> str:
    """A tokenizer of two words, with the ids 0 and `last`."""
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": last}, "unk_token": "a"}
    return json.dumps({"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": model})


def damaged_model(what: str, name: str, text: str | bytes, *told: str) -> Case:
    """A model's folder of which one file is damaged."""
    config = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16, "vocab_size": 25}  # fmt: skip
    files: dict[str, str | bytes | None] = {
        "d/config.json": json.dumps(config), "d/model.safetensors": b"", "d/tokenizer_config.json": "{}",
        "d/tokenizer.json": vocabulary(1),
    }  # fmt: skip
    return Case(f"--model: {what}", f"{RUN} --model d", told, files | {f"d/{name}": text})


GLUE = [
    Case("an unknown subcommand", "lits", ("unknown subcommand 'lits'", "did you mean 'list'?"), is_process=True),
    Case("no model", "--output_dir out", ("--model: name the folder of a pretrained model",)),
    Case("no output folder", "--model model", ("--output_dir: name the folder",)),
    run("an unknown option", "--jops 2", "'--jops'", "did you mean '--jobs'?"),
    run("no seeds", "--seeds 0", "--seeds: 0 is out of range; give between 1 and 1000"),
    run("no jobs", "--jobs 0", "--jobs: 0 is out of range; give 1 or more"),
    run("a log every -1 steps", "--logging_steps -1", "--logging_steps: -1 is out of range"),
    run("a rate of NaN", "--learning_rate nan", "--learning_rate: nan is out of range"),
    run("endless epochs", "--num_train_epochs inf", "--num_train_epochs: inf is out of range"),
    run("a dropout of 7", "--dropout 7", "--dropout: 7 is out of range; give between 0 and 1"),
    run("an optimizer's option without a value", "--optim_args beta1", "'beta1' has no value; write `beta1=VALUE`"),
    run("a seed", "--seed 3", "--seed: runs have the seeds 1, 2, ...; say with `--seeds`"),
    run("more tokens than the model reads", "--max_length 100", "--max_length: 100 is more than the 64 tokens", "give"),
    run("an unknown task", "--tasks RET", "'RET'", "did you mean 'RTE'?"),
    run("no task", "--tasks ''", "no task in ''", "give 'all' or names"),
    run("an unknown recipe", "--recipe adma", "--recipe: unknown recipe 'adma'", "did you mean 'adan'?"),
    run("a task's file that is not there", "--tasks no.yaml", "no.yaml"),
    run("a task's file without data", "--tasks mine.yaml", "mine.yaml:1: no 'dev'", mine="name: mine\ntrain: no.tsv\n"),
    run("no such data", "--data no/where", "no/where", "no folder"),
    run("an empty data folder's name", "--data ''", "--data: nothing is named by ''"),
    run("a model that is not there", "--model no/where/at", "--model: no folder 'no/where/at'; name the folder"),
    run("a file for a model", "--model file", "'file' is a file; name the folder"),
    run("an empty model's name", "--model ''", "--model: nothing is named by ''"),
    run("a folder without a model", "--model thesis", "'thesis' holds no finished model", "name the folder"),
    run("a language model", "--model lm", "/lm' cannot be loaded", "mend its files, or take"),
    run("a model with fewer words than its tokenizer", "--model few_words",
        "its tokenizer has 25 tokens, the model 20", "save the tokenizer"),
    run("a start that is not MNLI's", "--mnli_model no/where", "--mnli_model: 'no/where' is no folder; name"),
    damaged_model("a tokenizer with holes", "tokenizer.json", vocabulary(90), "has 91 tokens, the model 25", "save"),
    damaged_model("a damaged tokenizer", "tokenizer.json", "{", "--model: no usable tokenizer in '", "save the"),
    damaged_model("a damaged configuration", "config.json", "[", "'d' cannot be loaded", "mend its files"),
    damaged_model("damaged weights", "model.safetensors", b"\0" * 9, "/d' cannot be loaded", "mend its files"),
    config("a number for a name", "default:\n  num_train_epochs: 5\n  optim: 5", ":3: default: --optim:"),
    config("words for a number", "default:\n  learning_rate: fast\n", ":2: default: --learning_rate: invalid float"),
    config("a value out of range", "tasks:\n  RTE:\n    warmup_steps: -1\n", ":3: RTE: --warmup_steps: -1 is out of"),
    config("an unknown key", "default:\n  learning_rat: 1\n", ":2: unknown key 'learning_rat'", "'learning_rate'?"),
    config("an unknown task", "tasks: {RET: {}}\n", ":1: unknown task 'RET'", "did you mean 'RTE'?"),
    config("no hyperparameter", "default:\n  seeds: 2\n", ":2: 'seeds' is no hyperparameter", "`--seeds`"),
    config("a task twice", "tasks: {RTE: {}, RTE: {}}\n", ":1: 'RTE' stands in line 1 already"),
    config("no YAML", "tasks: [", ":1: not a YAML file"),
    config("not UTF-8", b"\xff", "not a YAML file"),
    task_file("empty", "", "train.tsv: no examples: take the original"),
    task_file("a header only", HEADER, "train.tsv: no examples: take the original"),
    task_file("another header", HEADER.replace("sentence1", "premise"), "train.tsv:1: the header", "take the original"),
    task_file("a cell too few", f"{HEADER}0\ta\tentailment\n", "train.tsv:2: 3 columns instead of 4", "mend the line"),
    task_file("an unknown label", f"{HEADER}0\ta\tb\tmaybe\n", "train.tsv:2: label 'maybe'", "use entailment"),
    task_file("Latin-1", f"{HEADER}0\tcaf\xe9\tb\tentailment\n".encode("cp1252"), ":2", "UTF-8"),
    task_file("a folder", None, "train.tsv: missing: add it, or leave the task out"),
    task_file("an unknown label", f"{HEADER}0\ta\tb\tmaybe\n", "3 files, told above with their remedies", checks=True),
    run("a file for the output folder", "--output_dir file", "'file' is a file; choose a folder"),
    run("a folder of others", "--output_dir thesis", "'thesis' is not empty and holds no GLUE runs; choose another"),
    run("a name that is too long", f"--output_dir {'o' * 300}", "ooo", "File name too long"),
    Case("check-data: no such folder", "check-data --data no/where", ("no folder no/where",)),
    Case("check-data: an unknown option", "check-data --dat glue", ("did you mean '--data'?",)),
    Case("report: nothing", "report", ("required: OUT", "--help")),
    Case("report: no sweep", "report thesis", ("no thesis/plan.json",)),
    Case("report: a damaged plan", "report d", ("d/plan.json: not a JSON object: run",), {"d/plan.json": "[]"}),
    Case("report: a plan that is not UTF-8", "report d", ("d/plan.json: not JSON", "run"), {"d/plan.json": b"\xff"}),
    Case("report: two sweeps, no folder", "report sweep sweep2", ("say where the comparison goes",)),
    Case("report: onto a sweep", "report sweep sweep2 --output_dir good", ("holds the runs and the report of a",)),
    Case("report: onto others' files", "report sweep sweep2 --output_dir thesis", ("report.md' is no report of ours",)),
    Case("submit: nothing", "submit", ("give a sweep's folder",)),
    Case("submit: a part of the test", "submit part", ("100 predictions, but WNLI/test.tsv has 146",)),
    Case("submit: no such seed", "submit good --seed 9", ("WNLI has no result with seed 9",)),
    Case("submit: no zip", "submit good --output x.tar", ("is not a file that ends in .zip",)),
    Case("submit: in a file", "submit good --output file/x.zip", ("--output: cannot write",)),
    Case("submit: a damaged zip", "submit --check d.zip", ("d.zip: 1 problem",), {"d.zip": "PK no zip"}),
    Case("list: an unknown option", "list --jsn", ("'--jsn'", "did you mean '--json'?")),
]  # fmt: skip
