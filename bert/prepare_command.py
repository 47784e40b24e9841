"""`run_pretrain.py prepare`: raw text in, a folder out that `--data` takes on any machine."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from bert.data_options import CorpusOptions
from bert.prepare import prepare_corpus
from bert.prepared import PreparedData
from nlp_adan.corpora.manifest import BLOCKS, damaged_files, is_prepared, read_manifest
from nlp_adan.errors import UserError
from nlp_adan.training.recipe import CommandParser, check_range, word_value


@dataclasses.dataclass
class PrepareOptions(CorpusOptions):
    """What to prepare, and where."""

    output_dir: str | None = dataclasses.field(
        default=None, metadata={"help": "Folder of the prepared data; default: in the cache, where training finds it."}
    )
    num_workers: int | None = dataclasses.field(
        default=None, metadata={"help": "Processes that tokenize, up to 150 MB each; default: one a core, at most 4."}
    )
    verify: str | None = dataclasses.field(
        default=None,
        metadata={
            "help": "A folder of prepared data of which to hash every file. With --data as well, what is damaged is "
            "then made anew; without, it is only named."
        },
    )


def command_parser() -> CommandParser:
    """The parser of `run_pretrain.py prepare`."""
    return CommandParser(
        (PrepareOptions,),
        prog="run_pretrain.py prepare",
        description="Tokenize text and pack it into blocks, once, for `run_pretrain.py bert --data FOLDER`.",
    )


def main(words: Sequence[str]) -> None:
    """`run_pretrain.py prepare WORDS`: prepare, or verify."""
    (options,) = command_parser().parse(words)
    check_options(options)
    if options.verify is not None and word_value("--data", words) is None:
        print(verify(Path(options.verify)))
        return
    started = time.monotonic()
    folder = options.verify or options.output_dir
    existed = folder is not None and is_prepared(Path(folder))
    prepared, _ = prepare_corpus(
        options, Path(folder) if folder else None, options.num_workers, verify=options.verify is not None
    )
    print(summary(prepared, None if existed else time.monotonic() - started))


def check_options(options: PrepareOptions) -> None:
    """Raises: UserError for a value that is out of range, or for folders that contradict each other."""
    check_range("vocab_size", options.vocab_size, 1)
    check_range("tokenizer_sample_bytes", options.tokenizer_sample_bytes, 1)
    if options.num_workers is not None:
        check_range("num_workers", options.num_workers, 1)
    if options.data is not None and is_prepared(Path(options.data)):
        raise UserError(f"--data {options.data!r} is prepared already: train on it, or name its sources")
    if options.output_dir and Path(options.output_dir).exists() and not is_prepared(Path(options.output_dir)):
        raise UserError(f"--output_dir {options.output_dir!r} is there and holds no prepared data: name a new folder")
    if options.verify and options.output_dir and Path(options.verify) != Path(options.output_dir):
        raise UserError(f"--verify {options.verify!r} and --output_dir {options.output_dir!r}: name one folder")


def verify(folder: Path) -> str:
    """Hash every file of prepared data.

    Raises: UserError naming those that are not as they were written.
    """
    manifest = read_manifest(folder, BLOCKS)
    damaged = damaged_files(folder, manifest, read_all=True)
    if damaged:
        named = "; ".join(f"{name} {state}" for name, state in sorted(damaged.items()))
        raise UserError(
            f"{folder}: {len(damaged)} of {len(manifest['files'])} files are damaged: {named}. To make them anew, run "
            f"`python run_pretrain.py prepare --verify {folder}` with the options that prepared it, `--data` among them"
        )
    num_bytes = sum(entry["num_bytes"] for entry in manifest["files"].values())
    return f"{folder} is whole: {len(manifest['files'])} files, {num_bytes / 1e6:,.1f} MB"


def summary(prepared: PreparedData, seconds: float | None) -> str:
    """What is in the folder. seconds: that it took, None where it was there before."""
    manifest = prepared.manifest
    parts = [manifest[part] for part in ("train", "valid")]
    num_documents, num_tokens = (sum(part[name] for part in parts) for name in ("num_documents", "num_document_tokens"))
    sizes = [source["num_bytes"] for source in manifest["inputs"]["corpus"]["sources"]]
    rate = ""
    if seconds is not None and None not in sizes:
        rate = f", {sum(sizes) / 1e6 / max(seconds, 1e-9):.1f} MB/s ({seconds:.0f} s)"
    return (
        f"{num_documents:,} documents, {num_tokens:,} tokens{rate}: {parts[0]['num_blocks']:,} training and "
        f"{parts[1]['num_blocks']:,} validation blocks of {prepared.block_size} tokens in {prepared.folder}"
    )
