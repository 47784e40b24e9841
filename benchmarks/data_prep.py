"""Text to blocks of tokens, end to end: ours beside Hugging Face's way, on the same text with the same tokenizer.

    python benchmarks/data_prep.py --data NOVELS --megabytes 1000 --json data_prep.json

Hugging Face's way is that of its run_mlm.py: load_dataset("text"), map(tokenize), map(group_texts). It is timed both
with threads of the tokenizers library (num_proc None) and with one process a core; the faster one counts. Each side
runs in a process of its own, from its start to its end, imports included; the tokenizer is trained before. The text is
--data repeated: in each copy the lines of a file are shuffled in runs of 20, and 1 of 200 words is misspelled, so that
new words keep coming as they do in new text. Memory is that of the process tree (proportional set size), sampled.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.progress import progress
from nlp_adan.storage import json_file, write_json

OURS, THREADS, PROCESSES = "prepare", "datasets, threads", "datasets, processes"
SIDES = (OURS, THREADS, PROCESSES)
SAMPLE_SECONDS = 0.1
LINES_TOGETHER = 20
MISSPELLED = 1 / 200
VOCAB_SIZE = 50_265
# Name of the figure, what it is, bound, whether the bound is the largest value that meets it.
BARS = (
    ("speed_over_hf", "our MB/s / Hugging Face's", 2.0, False),
    ("our_peak_mib", "our peak memory, MiB", 1024.0, True),
    ("our_disk_over_hf", "our bytes on disk / Hugging Face's", 1 / 3, True),
)


def make_text(data: Path, folder: Path, num_bytes: int) -> int:
    """Write text files made of those under `data`, `num_bytes` in all; their bytes."""
    files = sorted(data.rglob("*.txt")) if data.is_dir() else [data]
    if not files:
        raise UserError(f"--data {data}: no .txt files there")
    texts = [path.read_text(encoding="utf-8") for path in files]
    generator = random.Random(0)
    written = 0
    with progress(description="making text", unit="byte", total=num_bytes) as bar:
        for number, text in enumerate(_copies(texts, generator)):
            content = text.encode()[: num_bytes - written].decode(errors="ignore").encode()
            (folder / f"{number:05}.txt").write_bytes(content)
            written += len(content)
            bar.update(len(content))
            if num_bytes - written < 4:
                return written
    raise AssertionError("there are always more copies")


def _copies(texts: list[str], generator: random.Random) -> Iterator[str]:
    yield from texts
    while True:
        for text in texts:
            lines = text.split("\n")
            runs = [lines[begin : begin + LINES_TOGETHER] for begin in range(0, len(lines), LINES_TOGETHER)]
            generator.shuffle(runs)
            yield _misspelled("\n".join(chain(*runs)), generator)


def _misspelled(text: str, generator: random.Random) -> str:
    words = re.split(r"(\w+)", text)
    for index in range(1, len(words), 2):
        if generator.random() < MISSPELLED:
            place = generator.randrange(len(words[index]))
            letter = generator.choice("abcdefghijklmnopqrstuvwxyz")
            words[index] = words[index][:place] + letter + words[index][place + 1 :]
    return "".join(words)


def train_tokenizer(text: Path, folder: Path, vocab_size: int) -> None:
    """The tokenizer that both sides use."""
    from bert.tokenizer import train_tokenizer
    from nlp_adan.corpora.documents import open_corpus
    from nlp_adan.corpora.sample import CorpusSample

    train_tokenizer(CorpusSample(open_corpus(str(text)), 20_000_000), vocab_size).save_pretrained(str(folder))


def hugging_face(text: Path, tokenizer_folder: str, output: Path, block_size: int, num_proc: int | None) -> int:
    """As run_mlm.py does it without --line_by_line; the number of blocks."""
    import datasets
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, model_max_length=1 << 30, trust_remote_code=False)
    files = sorted(str(path) for path in text.iterdir())
    rows = datasets.load_dataset("text", data_files=files, split="train", cache_dir=str(output))

    def tokenize(examples: dict[str, list[str]]) -> Any:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group(examples: dict[str, list[Any]]) -> dict[str, list[Any]]:
        joined = {name: list(chain(*column)) for name, column in examples.items()}
        length = len(joined["input_ids"]) // block_size * block_size
        return {
            name: [column[begin : begin + block_size] for begin in range(0, length, block_size)]
            for name, column in joined.items()
        }

    rows = rows.map(tokenize, batched=True, num_proc=num_proc, remove_columns=["text"])
    return len(rows.map(group, batched=True, num_proc=num_proc))


def run_side(side: str, text: Path, tokenizer: str, output: Path, block_size: int, workers: int) -> int:
    """Do one side's work in this process; the number of blocks."""
    if side == OURS:
        from bert.prepare import prepare_pretraining_data

        prepared, _ = prepare_pretraining_data(
            str(text), tokenizer_name_or_path=tokenizer, block_size=block_size, folder=output, num_workers=workers
        )
        return len(prepared.train) + len(prepared.valid)
    return hugging_face(text, tokenizer, output, block_size, None if side == THREADS else workers)


def tree_memory(root: psutil.Process) -> int:
    """Bytes that a process and those under it hold, shared memory shared out among them."""
    total = 0
    for process in [root, *root.children(recursive=True)]:
        try:
            total += getattr(process.memory_full_info(), "pss", 0) or process.memory_info().rss
        except psutil.Error:
            continue
    return total


def cpu_seconds() -> float:
    """Time on the cores of all processes under this one that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure(side: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Run one side in a process of its own: seconds, peak memory, bytes on disk, blocks."""
    output = folder / side.replace(", ", "_")
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "NLP_ADAN_CACHE": str(folder / "cache")}
    used_before = cpu_seconds()
    started = time.monotonic()
    command = [sys.executable, __file__, "--side", side, "--output", str(output), *words]
    with open(folder / "errors.txt", "w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
        root = psutil.Process(process.pid)
        peak = 0
        while process.poll() is None:
            try:
                peak = max(peak, tree_memory(root))
            except psutil.Error:
                break
            time.sleep(SAMPLE_SECONDS)
        printed, _ = process.communicate()
        seconds = time.monotonic() - started
        if process.returncode:
            errors.seek(0)
            raise UserError(f"{side} failed: {errors.read()[-2000:]}")
    disk = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - used_before,
        "peak_mib": peak / 2**20,
        "disk_mb": disk / 1e6,
        "num_blocks": json.loads(printed.splitlines()[-1]),
    }


def figures(rows: dict[str, dict[str, Any]], num_bytes: int) -> dict[str, Any]:
    """The figures as a JSON value."""
    for row in rows.values():
        row["mb_per_second"] = num_bytes / 1e6 / row["seconds"]
    ours = rows[OURS]
    best = max((name for name in rows if name != OURS), key=lambda name: float(rows[name]["mb_per_second"]))
    figures = {
        "speed_over_hf": ours["mb_per_second"] / rows[best]["mb_per_second"],
        "cpu_of_hf_over_ours": rows[best]["cpu_seconds"] / ours["cpu_seconds"],
        "our_peak_mib": ours["peak_mib"],
        "our_disk_over_hf": ours["disk_mb"] / rows[best]["disk_mb"],
        "hf_peak_mib": rows[best]["peak_mib"],
        "hf_best": best,
    }
    return {"headline": figures["speed_over_hf"], "figures": figures, "rows": rows}


def report(result: dict[str, Any], machine: dict[str, Any]) -> str:
    """The table as Markdown, after a summary in one line; then the bars."""
    figures = result["figures"]
    bars, met_bars = [], 0
    for key, meaning, bound, at_most in BARS:
        value = figures[key]
        met = value <= bound if at_most else value >= bound
        met_bars += met
        verdict = "met" if met else "NOT met"
        bars.append(f"- {meaning}: {value:.3g} (at {'most' if at_most else 'least'} {bound:.3g}): {verdict}")
    ours = result["rows"][OURS]
    lines = [
        f"{ours['mb_per_second']:.1f} MB/s, {figures['speed_over_hf']:.1f} times {figures['hf_best']}, "
        f"peak memory {ours['peak_mib']:.0f} MiB; {met_bars} of {len(BARS)} bars met",
        f"\n{machine['megabytes']:.1f} MB of text, blocks of {machine['block_size']}, {machine['workers']} workers, "
        f"{machine['cpu']}, datasets {machine['datasets']}, tokenizers {machine['tokenizers']}; load before: "
        f"{machine['load_before']:.1f}\n",
        "| way | s | MB/s | CPU s | peak memory, MiB | on disk, MB | blocks |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in result["rows"].items():
        lines.append(
            f"| {name} | {row['seconds']:.1f} | {row['mb_per_second']:.2f} | {row['cpu_seconds']:.1f} | "
            f"{row['peak_mib']:.0f} | {row['disk_mb']:.1f} | {row['num_blocks']:,} |"
        )
    return "\n".join([*lines, "", *bars])


def facts(options: argparse.Namespace, num_bytes: int) -> dict[str, Any]:
    """What the figures depend on besides the code."""
    import datasets
    import tokenizers

    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    models = (line.partition(":")[2].strip() for line in cpuinfo.splitlines() if line.startswith("model name"))
    return {
        "cpu": next(models, platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "megabytes": num_bytes / 1e6,
        "datasets": datasets.__version__,
        "tokenizers": tokenizers.__version__,
        **{name: getattr(options, name) for name in ("block_size", "workers", "vocab_size")},
    }


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a text file or a folder of them (default: the built-in corpus)")
    parser.add_argument("--megabytes", type=float, default=50.0, help="of text to prepare (default: 50)")
    parser.add_argument("--block_size", type=int, default=512, help="tokens in a block (default: 512)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--vocab_size", type=int, default=VOCAB_SIZE, help=f"(default: {VOCAB_SIZE})")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    for name in ("--side", "--text", "--tokenizer", "--output"):
        parser.add_argument(name, help=argparse.SUPPRESS)  # of the process of one side
    return parser.parse_args()


def builtin_text(folder: Path) -> Path:
    """The built-in corpus as a text file."""
    from nlp_adan.corpora.documents import open_corpus

    path = folder / "builtin.txt"
    path.write_text("\n\n".join(open_corpus(None).documents()), encoding="utf-8")
    return path


def main() -> None:
    """Read the command line, measure, print the table, write the JSON file."""
    options = parse()
    if options.side:
        text, output = Path(options.text), Path(options.output)
        print(run_side(options.side, text, options.tokenizer, output, options.block_size, options.workers))
        return
    for name, least in (("megabytes", 0.1), ("block_size", 3), ("workers", 1), ("vocab_size", 261)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    if options.data is not None and not options.data.exists():
        raise UserError(f"--data {options.data}: no such file or folder")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = folder / "text"
        text.mkdir()
        num_bytes = make_text(options.data or builtin_text(folder), text, int(options.megabytes * 1e6))
        train_tokenizer(text, folder / "tokenizer", options.vocab_size)
        words = ["--text", str(text), "--tokenizer", str(folder / "tokenizer")]
        words += ["--block_size", str(options.block_size), "--workers", str(options.workers)]
        machine = facts(options, num_bytes)
        rows = {side: measure(side, words, folder) for side in progress(SIDES, description="measuring", unit="way")}
    result = figures(rows, num_bytes)
    print(report(result, machine))
    if options.json:
        write_json(options.json, {**result, "machine": machine})


if __name__ == "__main__":
    with exit_on_user_error():
        main()
