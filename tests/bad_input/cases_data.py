"""Cases for texts, tokenizers, models and output folders of pretraining and of its preparation."""

from __future__ import annotations

import gzip
import io

import pyarrow
import pyarrow.parquet

from tests.bad_input.case import Case

PROSE = "The quick brown fox jumps over the lazy dog and runs back to the river again. " * 40
RUN = "--recipe tiny --max_steps 1 --output_dir out --data"
GOOD = "--vocab_size 300 --valid_fraction 0.3 --block_size 32"  # of the ground's texts
LONG = "o" * 300


def parquet(column: str, text: bytes) -> bytes:
    """A file of one row; its string may hold any bytes."""
    offsets = pyarrow.py_buffer((0).to_bytes(4, "little") + len(text).to_bytes(4, "little"))
    array = pyarrow.Array.from_buffers(pyarrow.string(), 1, [None, offsets, pyarrow.py_buffer(text)])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({column: array}), buffer)
    return buffer.getvalue()


GZIPPED = gzip.compress(f'{{"text": "{PROSE}"}}\n'.encode() * 50)
# What is wrong, the name after --data, what is planted, what is told.
TEXTS: list[tuple[str, str, dict[str, str | bytes | None], tuple[str, ...]]] = [
    ("no such file", "no/where.txt", {}, ("--data 'no/where.txt': no such file or folder", "give a .txt")),
    ("a name misspelled", "text.txx", {}, ("'text.txx'", "did you mean 'text.txt'?")),
    ("an empty name", "''", {}, ("--data: nothing is named by ''", "leave the option out")),
    ("a name that is too long", LONG, {}, ("ooo", "File name too long")),
    ("a device", "/dev/zero", {}, ("'/dev/zero' is neither a file nor a folder: save",)),
    ("an empty folder", "d", {"d": None}, ("--data 'd' holds no files; put .txt",)),
    ("a folder of PDFs", "d", {"d/a.pdf": "%PDF"}, ("only files with other endings: .pdf (1); put",)),
    ("an empty file", "a.txt", {"a.txt": ""}, ("the data 'a.txt' holds no text", "add text to it")),
    ("blank lines", "d", {"d/a.txt": " \n\n"}, ("the data 'd' holds no text",)),
    ("a program", "d", {"d/a.txt": PROSE, "d/b.txt": b"\x7fELF\0\1" * 99}, ("d/b.txt is a program", "remove it")),
    ("Latin-1", "a.txt", {"a.txt": f"{PROSE}\n{PROSE}caf\xe9".encode("latin-1")},
     ("a.txt, line 2: byte", "(0xe9) is not utf-8", "`--encoding latin-1`")),
    ("UTF-16", "a.txt", {"a.txt": PROSE.encode("utf-16")}, ("a.txt, line 1: byte 0", "add `--encoding utf-16`")),
    ("UTF-8 for UTF-16", "text.txt --encoding utf-16", {}, ("text.txt is not utf-16", "leave `--encoding` out")),
    ("no such encoding", "text.txt --encoding utf9", {}, ("--encoding 'utf9' is not an encoding", "usual ones")),
    ("a NUL character", "a.txt", {"a.txt": "a\nb\0"}, ("a.txt, line 2: a NUL character", "remove it")),
    ("a name that is not UTF-8", "d", {"d/caf\udce9.txt": b"a\n\xff"}, ("line 2: byte 2 (0xff) is not utf-8",)),
    ("parquet: a name that is not UTF-8", "d", {"d/caf\udce9.parquet": "x"}, ("is not a whole parquet file", "fetch")),
    ("parquet: cut off", "a.parquet", {"a.parquet": parquet("text", b"a")[:-9]}, ("a.parquet is not a whole parquet",)),
    ("parquet: no such column", "a.parquet", {"a.parquet": parquet("body", b"a")},
     ("a.parquet has no column 'text'; it has: body", "`--text_column NAME`")),
    ("parquet: a string that is not UTF-8", "a.parquet", {"a.parquet": parquet("text", b"caf\xe9")},
     ("a.parquet, row 0: its text is not UTF-8", "write the file anew")),
    ("JSON lines: broken", "a.jsonl", {"a.jsonl": '{"text": "a"}\n{"text": \n'}, ("line 2 is not JSON", "mend")),
    ("JSON lines: no such column", "a.jsonl", {"a.jsonl": '{"txt": "a"}\n'},
     ("a.jsonl, line 1 has no column 'text' (did you mean 'txt'?)", "`--text_column NAME`")),
    ("JSON lines: a number", "a.jsonl", {"a.jsonl": '{"text": 5}\n'}, ("line 1: the column 'text' holds a int",)),
    ("JSON lines: a list", "a.jsonl", {"a.jsonl": "[1]\n"}, ("a.jsonl, line 1 is not a JSON object", "a list")),
    ("gzip: cut off", "a.jsonl.gz", {"a.jsonl.gz": GZIPPED[:100]}, ("a.jsonl.gz: the compressed data ends early",)),
    ("gzip: none", "a.jsonl.gz", {"a.jsonl.gz": "no gzip"}, ("a.jsonl.gz: damaged gzip data", "fetch the file again")),
]  # fmt: skip
# The three commands read texts alike; each case is tried with one of them, and a few with all.
WITH_ALL = ("no such file", "Latin-1", "an empty file", "gzip: cut off")


def texts(run: str, turn: int) -> list[Case]:
    """Of each three cases one, and those that are tried with all."""
    return [
        Case(f"--data: {what}", f"{run} {name}", told, files)
        for number, (what, name, files, told) in enumerate(TEXTS)
        if number % 3 == turn or what in WITH_ALL
    ]


def tokenizer(what: str, files: dict[str, str | bytes | None], *told: str) -> Case:
    """A tokenizer's folder that is none."""
    return Case(f"--tokenizer: {what}", f"{RUN} texts --valid_fraction 0.3 --tokenizer d", told, files)


BERT = [
    *texts(RUN, 0),
    Case("--data: a damaged manifest", f"{RUN} d", ("d/manifest.json is damaged", "prepare again"),
         {"d/manifest.json": "{"}),
    Case("--data: a stream", f"{RUN} stream", ("stream holds", "this takes blocks", "name another folder")),
    Case("a vocabulary larger than the text", f"{RUN} texts", ("4,096 tokens is larger", "choose `--vocab_size 536`")),
    Case("a vocabulary smaller than bytes", f"{RUN} texts --vocab_size 100", ("100 tokens is too small",)),
    Case("no room in a block", f"{RUN} texts {GOOD} --block_size 2", ("a block of 2 tokens", "`--block_size 3`")),
    Case("blocks of another length", f"{RUN} prepared --block_size 9", ("--block_size 9: prepared holds blocks of 32",
         "give `--block_size 32`")),
    Case("a tokenizer without a mask", f"{RUN} texts --tokenizer model", ("'model' has no mask token", "choose")),
    Case("a model that is not masked", f"{RUN} texts --model_name_or_path lm", ("'lm' has no mask token",)),
    tokenizer("none there", {"d": None}, "'d' holds no tokenizer"),
    tokenizer("broken JSON", {"d/tokenizer.json": "{"}, "--tokenizer: 'd' holds no tokenizer that loads"),
    tokenizer("a list", {"d/tokenizer_config.json": "[]"}, "--tokenizer: 'd' holds no tokenizer that loads"),
    tokenizer("not UTF-8", {"d/tokenizer.json": b"\xff\xfe"}, "--tokenizer: 'd' holds no tokenizer that loads"),
    tokenizer("an unknown class", {"d/tokenizer_config.json": '{"tokenizer_class": "No"}'}, "no tokenizer that loads"),
    *(
        Case(f"--output_dir: {what}", f"--recipe tiny --data texts {GOOD} --output_dir {folder}", tuple(told))
        for what, folder, *told in (
            ("a file", "file", "--output_dir: 'file' is a file; choose a folder"),
            ("inside a file", "file/in", "--output_dir: ", "'file/in", "choose another folder"),
            ("a folder of others", "thesis", "'thesis' is not empty and holds no run; choose another folder"),
            ("another run", "other", "'other' holds another run (unfinished; ", "choose another folder, or remove"),
            ("in the data", "texts/out", "'texts/out' lies inside the data 'texts'", "`--output_dir`"),
            ("a name that is too long", LONG, "ooo", "File name too long; give a shorter one"),
            ("no place for folders", "/proc/none", "--output_dir: cannot write into '/proc'", "choose another folder"),
        )
    ),
    Case("--resume: none there", f"--recipe tiny --data texts {GOOD} --output_dir out --resume no/where",
         ("--resume: 'no/where' is not a whole checkpoint folder", "name one, or `auto`")),
    Case("--resume: a checkpoint of another model", f"--recipe tiny --data texts {GOOD} --output_dir out "
         "--resume run/checkpoint-5", ("--resume: no resolved.yaml in '", "name a checkpoint in its run's folder")),
    Case("a cache that is a file", f"{RUN} texts {GOOD}", ("file/cache: Not a directory", "NLP_ADAN_CACHE"),
         environment={"NLP_ADAN_CACHE": "file/cache"}),
]  # fmt: skip
TRANSFORMER_XL = [
    *texts(RUN.replace("tiny", "tiny --d_model 16"), 1),
    Case("--data: blocks", f"{RUN} prepared", ("prepared holds", "this takes a stream", "name another folder")),
    Case(
        "another kind of model",
        f"{RUN} texts --cutoffs 10 --model_name_or_path lm",
        ("--model_name_or_path: 'lm' is a awd_lstm", "name one of"),
    ),
]
PREPARE = [
    *texts("--output_dir out --data", 2),
    Case("a folder of others", "--data texts --output_dir thesis", ("'thesis' is there and holds no prepared data",)),
    Case("a file for a folder", "--data texts --output_dir file", ("'file' is there and holds no prepared data",)),
    Case("in the data", f"--data texts {GOOD} --output_dir texts/out", ("lies inside the data", "`--output_dir`")),
    Case(
        "a name that is too long", f"--data texts {GOOD} --output_dir {LONG}", ("File name too long; give a shorter",)
    ),
    Case(
        "prepared already", "--data prepared --output_dir out", ("--data 'prepared' is prepared already: train on it",)
    ),
    Case("other data there", f"--data texts {GOOD} --split_seed 9 --output_dir prepared", ("prepared", "split_seed")),
    Case("nothing to verify", "--verify thesis", ("thesis holds no prepared data (no manifest.json): name another",)),
    Case("two folders", "--verify prepared --output_dir x", ("--verify 'prepared' and --output_dir 'x': name one",)),
    Case("no workers", "--data texts --num_workers 0", ("--num_workers: 0 is out of range; give 1 or more",)),
    Case("a negative block", "--data texts --block_size -1 --output_dir out", ("-1 tokens", "`--block_size 128`")),
    Case("a share of 2", "--data texts --valid_fraction 2 --output_dir out", ("2.0", "between 0 and 1, as 0.01")),
]
