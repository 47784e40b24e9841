"""What `benchmarks/scaling.py` measures: runs of the real commands, one axis each, larger and larger."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from bert.costs import masked_lm_costs
from bert.model_options import ModelOptions, model_config
from nlp_adan.corpora.builtin_corpus import builtin_corpus_file
from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import Devices, Workload, make_plan
from nlp_adan.training.environment import num_cpu_cores

PROJECT = Path(__file__).resolve().parents[1]
POLL_SECONDS = 0.1
MEMORY_SECONDS = 1.0  # between two looks at the memory, each of which takes some ms of a core
LINES_A_DOCUMENT = 30
BLOCK_SIZE = 128
MB = 1_000_000
RESUMPTIONS = 5
# What every training run here shares. A rate of 0 and no evaluation to speak of: only the cost counts.
COMMON = (
    "--recipe", "tiny", "--disable_tqdm", "True", "--logging_steps", "1", "--max_valid_blocks", "8",
    "--report_to", "none",
)  # fmt: skip


class Process(NamedTuple):
    """A command that has ended: its wall-clock seconds and the most memory that it and its children held together."""

    seconds: float
    peak_bytes: int
    output: str


def run(words: list[str], threads: int, until: Callable[[], bool] = lambda: False) -> Process:
    """Run a command to its end, or until `until()`; in that case it is killed.

    Raises: UserError with its last lines where it fails.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("WORLD_SIZE", "RANK", "LOCAL_"))
    }
    environment |= {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(PROJECT), "HF_HUB_OFFLINE": "1"}
    began = looked = time.monotonic()
    peak = 0
    with subprocess.Popen(
        words, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process, _reading(process) as lines:  # fmt: skip
        killed = False
        while process.poll() is None:
            if time.monotonic() - looked >= MEMORY_SECONDS:
                peak, looked = max(peak, _tree_bytes(process.pid)), time.monotonic()
            if until():
                seconds, killed = time.monotonic() - began, True
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                break
            time.sleep(POLL_SECONDS)
        else:
            seconds = time.monotonic() - began
    output = "".join(lines)
    if process.returncode and not killed:
        raise UserError(f"{' '.join(words)} failed:\n{output[-2000:]}")
    return Process(seconds, peak, output)


@contextmanager
def _reading(process: subprocess.Popen[str]) -> Iterator[list[str]]:
    """Reads what a process prints in a thread, so that a full pipe never stops it."""
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
    reader.start()
    try:
        yield lines
    finally:
        reader.join()


def _tree_bytes(pid: int) -> int:
    """Memory of a process and its children; pages that they share count once, where the system tells (Linux)."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            memory = process.memory_full_info()
            total += getattr(memory, "pss", memory.rss)
    except psutil.Error:
        pass  # ended meanwhile
    return total


def write_corpus(path: Path, megabytes: float) -> None:
    """A .jsonl file of about so many megabytes: the built-in corpus again and again, each time another one.

    The lines of a copy are shuffled among its documents and one word of each is a new number, so that no document
    comes twice and no line is quite like another copy's.
    """
    with builtin_corpus_file().open(encoding="utf-8") as file:
        texts = [line for record in file for line in json.loads(record)["text"].splitlines() if line.strip()]
    draw = random.Random(0)
    left = megabytes * MB
    with path.open("w", encoding="utf-8") as file:
        while left > 0:
            draw.shuffle(texts)
            for start in range(0, len(texts), LINES_A_DOCUMENT):
                document = [f"{text} {draw.randrange(10**6)}" for text in texts[start : start + LINES_A_DOCUMENT]]
                left -= file.write(json.dumps({"text": "\n".join(document)}, ensure_ascii=False) + "\n")
                if left <= 0:
                    break


def measure_ranks(ranks: list[int], work: Path, steps: int, data: Path) -> list[dict[str, Any]]:
    """The same global batch on 1, 2, ... ranks of one thread each. Cost: seconds a step."""
    rows = []
    sizes = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
    batch = 32 if 32 % max(ranks) == 0 else max(ranks)
    for count in ranks:
        folder = work / f"ranks-{count}"
        launcher = [str(Path(sys.executable).with_name("torchrun")), "--nproc_per_node", str(count),
                    "--master_port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0"]  # fmt: skip
        done = run([*launcher, *_training_words(folder, data, sizes, batch, steps), "--save_strategy", "no"], 1)
        rows.append({"x": count, "seconds": _seconds_a_step(folder, batch * BLOCK_SIZE), "peak_bytes": done.peak_bytes})
    return rows


def measure_models(models: list[tuple[int, int]], work: Path, steps: int, data: Path) -> list[dict[str, Any]]:
    """Models of (layers, width), a micro-batch of 8 x 128 tokens on every core. Cost: seconds a step."""
    rows = []
    for layers, width in models:
        sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64,
                 "intermediate_size": 4 * width}  # fmt: skip
        config = model_config(ModelOptions(model_type="roberta", **sizes), Vocabulary(8192), BLOCK_SIZE)  # type: ignore[arg-type]
        plan = make_plan(
            masked_lm_costs(config, BLOCK_SIZE, mask_probability=0.15),
            Workload(sequence_length=BLOCK_SIZE, micro_batch_size=8, max_steps=steps),
            Devices(world_size=1),
        )
        folder = work / f"model-{layers}x{width}"
        words = [sys.executable, *_training_words(folder, data, sizes, 8, steps), "--save_strategy", "no"]
        words += ["--model_type", "roberta", "--mask_probability", "0.15"]
        done = run(words, num_cpu_cores())
        rows.append(
            {
                "x": plan.num_parameters,
                "flops_per_step": plan.flops_per_step,
                "seconds": _seconds_a_step(folder, 8 * BLOCK_SIZE),
                "peak_bytes": done.peak_bytes,
                "state_bytes": plan.state_bytes["none"].device_bytes,
            }
        )
    return rows


class Prepared(NamedTuple):
    """A prepared corpus: its folder, the text's size in MB, the preparation, and its repetition."""

    folder: Path
    megabytes: float
    first: Process
    again: Process


def prepare_corpus(text: Path, megabytes: float, folder: Path) -> Prepared:
    """Generate a corpus and prepare it twice, with a tokenizer of 8,192 entries and blocks of 128 tokens."""
    write_corpus(text, megabytes)
    words = [sys.executable, "run_pretrain.py", "prepare", "--data", str(text), "--output_dir", str(folder),
             "--vocab_size", "8192", "--block_size", "128"]  # fmt: skip
    first, again = (run(words, num_cpu_cores()) for _ in range(2))
    size = text.stat().st_size / MB
    text.unlink()
    return Prepared(folder, size, first, again)


def measure_corpora(megabytes: list[float], work: Path) -> list[dict[str, Any]]:
    """Corpora of so many megabytes. Cost: seconds of preparation.

    `again_seconds`: of a second preparation, which has nothing to do; `start_seconds`: from the start of a training
    to its first step.
    """
    rows = []
    for size in megabytes:
        prepared = prepare_corpus(work / f"text-{size:g}.jsonl", size, work / f"prepared-{size:g}")
        folder = work / f"corpus-{size:g}"
        start = _time_to_step([sys.executable, *_training_words(folder, prepared.folder, {}, 8, 2)], folder, 1)
        rows.append(
            {
                "x": prepared.megabytes,
                "seconds": prepared.first.seconds,
                "peak_bytes": prepared.first.peak_bytes,
                "disk_bytes": sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.is_file()),
                "again_seconds": prepared.again.seconds,
                "start_seconds": start,
            }
        )
        shutil.rmtree(prepared.folder)
    return rows


def measure_resumes(lengths: list[int], work: Path, data: Path) -> list[dict[str, Any]]:
    """Runs of so many steps of 8 x 128 tokens, killed before the last. Cost: seconds to the next step.

    `start_seconds` is the same for a fresh start. Medians of RESUMPTIONS, all lengths in turn, for a busy minute must
    not be one length's alone.
    """
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    folders = {length: work / f"resume-{length}" for length in lengths}
    commands, states = {}, {}
    for length, folder in folders.items():
        words = [sys.executable, *_training_words(folder, data, sizes, 8, length)]
        commands[length] = [
            *words,
            "--save_strategy",
            "steps",
            "--save_steps",
            str(length - 1),
            "--save_total_limit",
            "2",
        ]
        run(commands[length], 1)
        states[length] = (folder / f"checkpoint-{length - 1}" / "trainer_state.json").stat().st_size
    resumed: dict[int, list[float]] = {length: [] for length in lengths}
    started: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(RESUMPTIONS):
        for length, folder in folders.items():
            _before_last_step(folder, length)
            resumed[length].append(_time_to_step([*commands[length], "--resume", "auto"], folder, length))
            fresh = work / "fresh"
            started[length].append(_time_to_step([*commands[length], "--output_dir", str(fresh)], fresh, 1))
            shutil.rmtree(fresh)
    return [
        {
            "x": length,
            "seconds": statistics.median(resumed[length]),
            "all_seconds": sorted(round(seconds, 2) for seconds in resumed[length]),
            "start_seconds": statistics.median(started[length]),
            "state_bytes": states[length],
        }
        for length in lengths
    ]


class Vocabulary:
    """What a model's configuration takes from a tokenizer that is not there."""

    pad_token_id, bos_token_id, eos_token_id = 1, 0, 2

    def __init__(self, size: int) -> None:
        self.size = size

    def get_vocab(self) -> dict[str, int]:
        """Its last token stands for all."""
        return {"last": self.size - 1}


def _training_words(folder: Path, data: Path, sizes: dict[str, int], batch: int, steps: int) -> list[str]:
    words = ["run_pretrain.py", "bert", *COMMON, "--data", str(data), "--block_size", str(BLOCK_SIZE)]
    words += ["--max_steps", str(steps), "--global_batch_size", str(batch), "--output_dir", str(folder)]
    for name, value in sizes.items():
        words += [f"--{name}", str(value)]
    return words


def _seconds_a_step(folder: Path, tokens_per_step: int) -> float:
    """From the log; the median over the steps but the first two, which warm caches up."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return tokens_per_step / statistics.median(line["tokens_per_second"] for line in lines[2:] or lines)


def _before_last_step(folder: Path, length: int) -> None:
    """Leave of a run what a kill before its last step leaves."""
    for name in ("metrics.json", "model.safetensors"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / f"checkpoint-{length}", ignore_errors=True)
    log = folder / "log.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[: length - 1]))


def _time_to_step(words: list[str], folder: Path, step: int) -> float:
    """Seconds from a command's start to its log line of a step; then it is killed."""
    log, began, reached = folder / "log.jsonl", time.monotonic(), [0.0]

    def until() -> bool:
        lines = log.read_bytes()[-4096:].splitlines() if log.is_file() else []
        if lines and lines[-1].endswith(b"}") and json.loads(lines[-1])["step"] >= step:
            reached[0] = time.monotonic() - began
        return bool(reached[0])

    run(words, 1, until)
    return reached[0]
