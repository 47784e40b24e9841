"""What a checkpoint costs a training: seconds that it stands still, against a plain `torch.save` of the same bytes.

    python benchmarks/checkpoint.py --json checkpoint.json

A BERT of 110 M parameters trains with Adan in one process on the CPU, real steps of a small batch. In turns, in a new
order each round, its weights and Adan's four states are saved: behind the training, hashed and synced, as our runs do;
and by `torch.save`. Before each, all that waits for the disk is synced, so that neither pays for the other; what was
saved is removed afterwards. `headline`: seconds stalled / seconds of `torch.save`, which is not synced: that it returns
early is to its advantage. The shorter a step, the more is late when it ends: the default is a short one, `--batch 16
--length 128` a usual one. 2.2 GB a save; some 6 GB of memory, more for a larger batch.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from transformers import BertConfig, BertForMaskedLM

from nlp_adan import Adan
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.param_groups import decay_groups
from nlp_adan.progress import progress
from nlp_adan.storage import finite, json_file, write_json
from nlp_adan.training.checkpoint import tensor_files
from nlp_adan.training.checkpoint.fragments import fragments_of
from nlp_adan.training.checkpoint.optimizer_state import optimizer_files
from nlp_adan.training.checkpoint.tensor_files import TensorFile
from nlp_adan.training.checkpoint.writer import CheckpointWriter
from nlp_adan.training.environment import environment, num_cpu_cores

OURS, THEIRS = "behind the training", "torch.save"
BAR = 0.15  # of the headline, at most
WARM_UP_STEPS, QUIET_STEPS = 2, 3
MOST_STEPS = 10_000  # while one checkpoint is written
HEAD_SIZE = 64


class Training:
    """A BERT with a masked-LM head, and Adan: steps on random tokens."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=options.vocabulary,
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=max(1, options.hidden // HEAD_SIZE),
            intermediate_size=4 * options.hidden,
            max_position_embeddings=max(512, options.length),
        )
        self.model = BertForMaskedLM(config).train()
        self.optimizer = Adan(decay_groups(self.model, 0.02), lr=1e-4)
        self._tokens = torch.randint(options.vocabulary, (options.batch, options.length))
        self.step_number = 0

    def step(self) -> float:
        """Forward, backward and the optimizer's step; its seconds."""
        began = time.perf_counter()
        self.model(input_ids=self._tokens, labels=self._tokens).loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step_number += 1
        return time.perf_counter() - began


class HashClock:
    """Counts the seconds in which bytes are hashed, in whatever thread."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sha256(self) -> Any:
        """In the place of hashlib's."""
        digest = hashlib.sha256()

        def update(data: Any) -> None:
            began = time.perf_counter()
            digest.update(data)
            self.seconds += time.perf_counter() - began

        return SimpleNamespace(update=update, hexdigest=digest.hexdigest)


@contextlib.contextmanager
def hashing_timed() -> Iterator[HashClock]:
    """Within it, the hashing of checkpoints' files is timed."""
    clock, before = HashClock(), tensor_files.hashlib
    tensor_files.hashlib = clock
    try:
        yield clock
    finally:
        tensor_files.hashlib = before


@dataclass
class Saves:
    """The figures of all rounds, in their order. In seconds; the rates of ours follow from them.

    composed: until training goes on; held: then, before optimizer steps; slower: how much longer than usual the steps
    took meanwhile, besides; written: until the checkpoint was published; hashed: of these. plain: torch.save; synced:
    torch.save and a sync of its file.
    """

    num_bytes: int = 0
    composed: list[float] = field(default_factory=list)
    held: list[float] = field(default_factory=list)
    slower: list[float] = field(default_factory=list)
    steps_meanwhile: list[int] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    hashed: list[float] = field(default_factory=list)
    quiet_step: list[float] = field(default_factory=list)
    plain: list[float] = field(default_factory=list)
    synced: list[float] = field(default_factory=list)

    @property
    def stalled(self) -> list[float]:
        """The seconds that the training stood still."""
        return [sum(pair) for pair in zip(self.composed, self.held, strict=True)]


def save_behind(training: Training, writer: CheckpointWriter, saves: Saves) -> None:
    """Begin a checkpoint, train on until it is published, and note what that took."""
    held: list[float] = []
    hook = training.optimizer.register_step_pre_hook(lambda *_: held.append(writer.protect()))
    quiet = statistics.median([training.step() for _ in range(QUIET_STEPS)])
    held.clear()
    with hashing_timed() as clock:
        began = time.perf_counter()
        parts, description = optimizer_files(fragments_of(training.model, training.optimizer), 0, 1)
        files = [TensorFile("model.safetensors", weights(training), {"format": "pt"}), *parts]
        small = {"optimizer/optimizer.json": json.dumps(description).encode()}
        writer.begin(training.step_number, files, small, zero_stage=None, sequences_per_step=1, versions={})
        composed = time.perf_counter() - began
        steps = []
        while writer.is_busy and len(steps) < MOST_STEPS:
            steps.append(training.step())
        writer.wait()
    hook.remove()
    if writer.failed is not None:
        raise UserError(f"--folder: {writer.failed}")
    checkpoint = writer.published
    assert checkpoint is not None
    saves.num_bytes = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    saves.composed.append(composed)
    saves.held.append(sum(held))
    saves.slower.append(sum(steps) - sum(held) - len(steps) * quiet)
    saves.steps_meanwhile.append(len(steps))
    saves.written.append(composed + writer.write_seconds)
    saves.hashed.append(clock.seconds)
    saves.quiet_step.append(quiet)
    shutil.rmtree(checkpoint)


def save_plainly(training: Training, run: Path, saves: Saves) -> None:
    """`torch.save` of the same weights and states to one file."""
    training.step()
    path = run / "plain.pt"
    began = time.perf_counter()
    torch.save({"model": weights(training), "optimizer": training.optimizer.state_dict()}, path)
    saves.plain.append(time.perf_counter() - began)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    saves.synced.append(time.perf_counter() - began)
    path.unlink()


def weights(training: Training) -> dict[str, torch.Tensor]:
    """Every parameter once; the head's matrix is the embedding's."""
    return {name: parameter.detach() for name, parameter in training.model.named_parameters()}


def measure(training: Training, rounds: int, run: Path) -> Saves:
    """Both ways of saving, in turns."""
    for _ in range(WARM_UP_STEPS):
        training.step()
    saves, writer = Saves(), CheckpointWriter(run)
    ways = (lambda: save_behind(training, writer, saves), lambda: save_plainly(training, run, saves))
    for _ in progress(range(rounds), description="measuring", unit="round"):
        for save in random.sample(ways, 2):
            os.sync()
            save()
    return saves


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Median and quartiles."""
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "quartiles": [low, high]}


def figures(saves: Saves) -> dict[str, Any]:
    """All figures as a JSON value; ratios are medians of the rounds' own."""

    def ratio(over: Sequence[float], under: Sequence[float]) -> float:
        return statistics.median(a / b for a, b in zip(over, under, strict=True))

    seconds = {name: value for name, value in asdict(saves).items() if name not in ("num_bytes", "steps_meanwhile")}
    seconds["stalled"] = saves.stalled
    megabytes = saves.num_bytes / 1e6
    return {
        "headline": ratio(saves.stalled, saves.plain),
        "bar": BAR,
        "first_stalled_over_torch_save": saves.stalled[0] / saves.plain[0],
        "stalled_over_synced_torch_save": ratio(saves.stalled, saves.synced),
        "stalled_and_slower_over_torch_save": ratio(
            [sum(pair) for pair in zip(saves.stalled, saves.slower, strict=True)], saves.plain
        ),
        "megabytes": megabytes,
        "megabytes_per_second": {
            OURS: statistics.median(megabytes / value for value in saves.written),
            THEIRS: statistics.median(megabytes / value for value in saves.plain),
            f"{THEIRS}, synced": statistics.median(megabytes / value for value in saves.synced),
        },
        "share_of_hashing": ratio(saves.hashed, saves.written),
        "steps_meanwhile": saves.steps_meanwhile,
        "seconds": {name: {**spread(values), "all": values} for name, values in seconds.items()},
    }


def report(result: dict[str, Any], options: argparse.Namespace) -> str:
    """A summary in one line, the table as Markdown, the bar."""
    verdict = "met" if result["headline"] <= BAR else "NOT met"
    machine, rates, seconds = result["machine"], result["megabytes_per_second"], result["seconds"]
    lines = [
        f"a checkpoint of {result['megabytes']:,.0f} MB holds training up for {seconds['stalled']['median']:.2f} s, "
        f"{result['headline']:.3f} of a torch.save, at steps of {seconds['quiet_step']['median']:.2f} s",
        f"\nBERT, {options.layers} layers of {options.hidden}, {result['num_parameters'] / 1e6:.1f} M parameters and "
        f"Adan's four states, float32; batch {options.batch} x {options.length} tokens; {options.rounds} rounds; torch "
        f"{machine['packages']['torch']}, threads: {options.threads}, {machine['num_cpu_cores']} cores of "
        f"{machine['cpu']}; {result['file_system']}\n",
        "| seconds | median | quartiles | MB/s |",
        "|---|---:|---:|---:|",
    ]
    for name, meaning, rate in (
        ("stalled", f"{OURS}: the training stands still", None),
        ("composed", "of these, to compose it", None),
        ("held", "of these, before optimizer steps", None),
        ("slower", "steps meanwhile are longer by, in all", None),
        ("quiet_step", "a step otherwise", None),
        ("written", "until it is published", OURS),
        ("hashed", "of these, hashing", None),
        ("plain", THEIRS, THEIRS),
        ("synced", f"{THEIRS}, synced", f"{THEIRS}, synced"),
    ):
        low, high = seconds[name]["quartiles"]
        speed = "" if rate is None else f"{rates[rate]:,.0f}"
        lines.append(f"| {meaning} | {seconds[name]['median']:.3f} | {low:.3f}..{high:.3f} | {speed} |")
    lines += [
        f"\n- stalled / torch.save: {result['headline']:.3f} (at most {BAR}): {verdict}",
        f"- of the first save, to new memory: {result['first_stalled_over_torch_save']:.3f}",
        f"- stalled / synced torch.save: {result['stalled_over_synced_torch_save']:.3f}",
        f"- stalled and slower / torch.save: {result['stalled_and_slower_over_torch_save']:.3f}",
        f"- hashing's share of the writing: {result['share_of_hashing']:.2f}",
        f"- steps while one was written: {statistics.median(result['steps_meanwhile']):g}",
    ]
    return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a UserError for what cannot be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = {"hidden": 768, "layers": 12, "vocabulary": 30522, "batch": 2, "length": 64}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default: {default})")
    parser.add_argument("--rounds", type=int, default=7, help="saves of each kind (default: 7)")
    parser.add_argument("--threads", type=int, default=num_cpu_cores(), help="of torch (default: one a core)")
    parser.add_argument("--folder", type=Path, help="where to save to (default: the folder for temporary files)")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(words)
    for name, least in {**dict.fromkeys((*sizes, "threads"), 1), "rounds": 2}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    if options.hidden > HEAD_SIZE and options.hidden % HEAD_SIZE:
        raise UserError(f"--hidden must be a multiple of {HEAD_SIZE}, got {options.hidden}")
    if options.folder is not None and not options.folder.is_dir():
        raise UserError(f"--folder {options.folder}: no such folder")
    return options


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on, and where that is mounted, as Linux says."""
    with contextlib.suppress(OSError):
        mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
        inside = [(point, kind) for point, kind in mounts if folder.resolve().is_relative_to(point)]
        point, kind = max(inside, key=lambda mount: len(mount[0]))
        return f"{kind} at {point}"
    return "unknown file system"


def main() -> None:
    """Read the command line, measure, print the table, write the JSON file."""
    options = parse()
    torch.set_num_threads(options.threads)
    training = Training(options)
    num_parameters = sum(parameter.numel() for parameter in training.model.parameters())
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        needed = 2 * 5 * 4 * num_parameters  # weights and four states in float32, and as much again to be sure
        if shutil.disk_usage(folder).free < needed:
            raise UserError(f"--folder {folder}: {needed / 1e9:.1f} GB of space are needed; name another folder")
        result = figures(measure(training, options.rounds, Path(folder)))
        result["file_system"] = file_system(Path(folder))
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    result |= {"num_parameters": num_parameters, "machine": environment(), "options": settings}
    print(report(result, options))
    if options.json:
        write_json(options.json, finite(result))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
