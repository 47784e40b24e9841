"""Does Adan with a low-precision state train a language model as well as with an fp32 state?

    python benchmarks/low_precision.py --data DIR [--json FILE]

A small decoder-only transformer learns the bytes of a text file. Every variant starts from the same weights and sees
the same batches; only the precision of parameters and optimizer state differs. The validation loss, in nats per byte,
is always computed in fp32 from the weights that a run ends with. Each low-precision variant is compared, seed by seed,
with the reference whose forward rounds as its own does, so that the difference is the optimizer's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nlp_adan import Adan
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.progress import progress
from nlp_adan.storage import finite, json_file, write_json

VOCABULARY = 256  # bytes
CURVE_INTERVAL = 50  # steps averaged into one point of the loss curve
WEIGHT_DECAY = 0.02
DEFAULTS = {
    "steps": 3000, "batch": 4, "context": 128, "hidden": 128, "layers": 4, "heads": 4, "validation-windows": 512
}  # fmt: skip
DATA_SEED_OFFSET = 10_000  # the order of the data does not repeat the numbers of the initial weights


@dataclass(frozen=True)
class Variant:
    """What differs between runs: the parameters' dtype, the forward's, and Adan's options."""

    title: str
    bf16_parameters: bool
    bf16_forward: bool
    adan_options: dict[str, Any]
    reference: str | None  # the variant with the same forward and everything of the optimizer in fp32


VARIANTS = {
    "fp32": Variant("fp32", False, False, {}, None),
    "bf16_state": Variant("fp32 params, bf16 state", False, False, {"state_dtype": torch.bfloat16}, "fp32"),
    "fp32_master": Variant("fp32 master, bf16 autocast", False, True, {}, None),
    "bf16_low_bits": Variant("bf16 params, low bits kept", True, True, {"keep_low_bits": True}, "fp32_master"),
    "bf16_naive": Variant("bf16 params, low bits lost", True, True, {"keep_low_bits": False}, "fp32_master"),
}


class Fp32LayerNorm(nn.LayerNorm):
    """Normalises the fp32 residual stream with weights of any dtype."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight.float(), self.bias.float(), self.eps)


def rotate(x: Tensor) -> Tensor:
    """Rotary positions (arXiv 2104.09864), with which so small a model learns fast. [B, heads, T, D] -> same."""
    length, size = x.shape[-2:]
    angles = torch.outer(torch.arange(length), 10_000.0 ** (-torch.arange(0, size, 2) / size))  # radians, [T, D / 2]
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2).to(x.dtype)


class Block(nn.Module):
    """Causal self-attention and a GELU network of four times the width, each after a layer norm. [B, T, H] -> same."""

    def __init__(self, hidden: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = Fp32LayerNorm(hidden)
        self.query_key_value = nn.Linear(hidden, 3 * hidden)
        self.attention_output = nn.Linear(hidden, hidden)
        self.network_norm = Fp32LayerNorm(hidden)
        self.network = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

    def forward(self, x: Tensor) -> Tensor:
        batch, length, hidden = x.shape
        heads = self.query_key_value(self.attention_norm(x)).view(batch, length, 3, self.heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)  # each [B, heads, T, H / heads]
        mixed = functional.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        x = x + self.attention_output(mixed.transpose(1, 2).reshape(batch, length, hidden))
        return x + self.network(self.network_norm(x))


class LanguageModel(nn.Module):
    """Predicts the next byte. The embedding is also the output matrix.

    The residual stream and the loss are fp32 whatever the parameters are: under autocast the forward then rounds in
    the same places for fp32 and for bf16 parameters, at the inputs and outputs of matrix products.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, options.hidden)
        self.blocks = nn.ModuleList(Block(options.hidden, options.heads) for _ in range(options.layers))
        self.final_norm = Fp32LayerNorm(options.hidden)
        for name, parameter in self.named_parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
            # Every value fits into bf16, so that converting the parameters does not change where a variant starts.
            parameter.data.copy_(parameter.data.bfloat16())

    def forward(self, windows: Tensor) -> Tensor:
        """Mean loss in nats per byte, a scalar, of [B, context + 1] bytes: each but the first is predicted."""
        x = self.tokens(windows[:, :-1]).float()
        for block in self.blocks:
            x = block(x)
        logits = functional.linear(self.final_norm(x), self.tokens.weight).float()
        return functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def windows_at(text: Tensor, starts: Tensor, context: int) -> Tensor:
    """[len(starts), context + 1] int64 bytes of `text` (uint8) from each start."""
    return text[starts[:, None] + torch.arange(context + 1)].long()


def lr_factor(step: int, steps: int) -> float:
    """Linear warmup over the first tenth, then half a cosine to 0; `step` counts from 0."""
    warmup = max(1, steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(1, steps - warmup))


@torch.no_grad()
def validation_loss(model: LanguageModel, text: Tensor, options: argparse.Namespace) -> float:
    """Nats per byte of an fp32 model on windows spread evenly over the text, the same for every run."""
    starts = torch.linspace(0, len(text) - options.context - 1, options.validation_windows, dtype=torch.float64)
    chunks = starts.long().split(32)
    losses = [float(model(windows_at(text, chunk, options.context))) * len(chunk) for chunk in chunks]
    return sum(losses) / options.validation_windows


def train(name: str, seed: int, options: argparse.Namespace, texts: tuple[Tensor, Tensor], bar: Any) -> dict[str, Any]:
    """One run, as the JSON file keeps it. `texts`: the bytes to train on and those to validate on."""
    variant = VARIANTS[name]
    torch.manual_seed(seed)
    model = LanguageModel(options)
    if variant.bf16_parameters:
        model.bfloat16()
    optimizer = Adan(model.parameters(), lr=options.lr, weight_decay=WEIGHT_DECAY, **variant.adan_options)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(step, options.steps))
    data_order = torch.Generator().manual_seed(DATA_SEED_OFFSET + seed)
    losses = []
    started = time.perf_counter()
    for _ in range(options.steps):
        starts = torch.randint(len(texts[0]) - options.context, (options.batch,), generator=data_order)
        with torch.autocast("cpu", torch.bfloat16, enabled=variant.bf16_forward):
            loss = model(windows_at(texts[0], starts, options.context))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        bar.update()
    seconds = time.perf_counter() - started

    # Measured before the parameters become fp32 for the evaluation.
    parameters = list(model.parameters())
    state = [item for values in optimizer.state.values() for item in values.values() if isinstance(item, Tensor)]
    stored = sum(tensor.nbytes for tensor in [*parameters, *state])
    count = sum(parameter.numel() for parameter in parameters)
    averages = [losses[start : start + CURVE_INTERVAL] for start in range(0, len(losses), CURVE_INTERVAL)]
    return {
        "variant": name,
        "seed": seed,
        "validation_loss": validation_loss(model.float(), texts[1], options),
        "bytes_per_parameter": stored / count,
        "milliseconds_per_step": 1000 * seconds / options.steps,
        "curve": [statistics.fmean(points) for points in averages],
    }


def read_text(folder: Path, pattern: str, what: str, context: int) -> tuple[Tensor, str]:
    """The bytes (uint8) and the SHA-256 of the one file of `folder` that matches. Raises UserError without such."""
    if not folder.is_dir():
        raise UserError(f"--data {folder}: no such directory; give one with a training and a validation text file")
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    if len(found) != 1:
        held = ", ".join(path.name for path in found) or "none"
        raise UserError(f"--data {folder}: one {what} file must match {pattern!r}, found {held} (see --{what}-pattern)")
    content = found[0].read_bytes()
    if len(content) < context + 2:
        raise UserError(f"{found[0]}: {len(content)} bytes, --context {context} needs {context + 2} or more")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8), hashlib.sha256(content).hexdigest()


def earlier_runs(path: Path | None, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that an interrupted benchmark left. Raises UserError where its settings were others."""
    if path is None or not path.exists():
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        then, runs = content["settings"], content["runs"]
        other = [f"{name} {then.get(name)}" for name in settings if then.get(name) != settings[name]]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"--json {path}: was not written by this benchmark; name another file") from None
    if other:
        raise UserError(f"--json {path}: holds runs of other settings ({', '.join(other)}); name another file")
    return runs


def summarize(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each variant that has runs: mean loss and its spread, and the comparison with its reference, by seed.

    A run that diverged has a loss of NaN (None in the file), and so has every mean over it.
    """

    def spread(values: Iterable[float]) -> float | None:
        points = list(values)
        if any(math.isnan(point) for point in points):
            return math.nan
        return statistics.stdev(points) if len(points) > 1 else None

    summary: dict[str, dict[str, Any]] = {}
    losses: dict[str | None, dict[int, float]] = {}
    for name, variant in VARIANTS.items():
        own_runs = [run for run in runs if run["variant"] == name]
        if not own_runs:
            continue
        own = {run["seed"]: math.nan if run["validation_loss"] is None else run["validation_loss"] for run in own_runs}
        losses[name] = own
        reference = losses.get(variant.reference, {})
        differences = [own[seed] - reference[seed] for seed in own if seed in reference]
        difference = statistics.fmean(differences) if differences else None
        noise = spread(reference.values())
        summary[name] = {
            "seeds": len(own),
            "validation_loss": statistics.fmean(own.values()),
            "standard_deviation": spread(own.values()),
            "reference": variant.reference,
            "paired_difference": difference,
            "paired_difference_standard_deviation": spread(differences),
            "within_seed_noise": None if difference is None or noise is None else abs(difference) <= noise,
            "bytes_per_parameter": own_runs[0]["bytes_per_parameter"],
        }
    return summary


def as_markdown(summary: dict[str, dict[str, Any]]) -> str:
    """One line that answers the question, then the table."""
    verdicts = {True: "within seed noise", False: "beyond seed noise", None: "seed noise unknown"}

    def cell(value: float | None, form: str = ".4f") -> str:
        return "-" if value is None else format(value, form)

    answers = []
    rows = [
        "| variant | bytes per parameter | seeds | validation loss | its std | reference | paired difference | its std "
        "| verdict |",
        "|---|--:|--:|--:|--:|---|--:|--:|---|",
    ]
    for name, row in summary.items():
        title, reference, verdict = VARIANTS[name].title, "-", "-"
        if row["paired_difference"] is not None:
            reference, verdict = VARIANTS[row["reference"]].title, verdicts[row["within_seed_noise"]]
            answers.append(f"{title} {row['paired_difference']:+.4f} ({verdict})")
        numbers = [row["validation_loss"], row["standard_deviation"]]
        cells = [title, f"{row['bytes_per_parameter']:.2f}", str(row["seeds"]), *(cell(value) for value in numbers)]
        compared = [cell(row["paired_difference"], "+.4f"), cell(row["paired_difference_standard_deviation"])]
        rows.append(f"| {' | '.join([*cells, reference, *compared, verdict])} |")
    told = "; ".join(answers) or "no variant was run beside its reference"
    return "\n".join([f"Validation loss against the reference, nats per byte: {told}.", "", *rows])


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of a training and a validation text file")
    parser.add_argument("--train-pattern", default="*train*", help="file name or pattern in --data (%(default)s)")
    parser.add_argument("--validation-pattern", default="*valid*", help="file name or pattern in --data (%(default)s)")
    parser.add_argument(
        "--json", type=json_file, help="results; written after every run, and an interrupted one goes on"
    )
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="default: all")
    # The optimum is flat from 4e-3 to 8e-3: compared with --variants fp32 --seeds 1 --steps 1000 on WikiText-2.
    parser.add_argument("--lr", type=float, default=6e-3, help="peak learning rate (%(default)s)")
    for name, default in {"seeds": 3, **DEFAULTS}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help="(%(default)s)")
    options = parser.parse_args(arguments)
    for name in ("seeds", *DEFAULTS):
        if getattr(options, name.replace("-", "_")) < 1:
            parser.error(f"--{name} must be 1 or more")
    if options.hidden % (2 * options.heads):
        parser.error(f"--hidden {options.hidden} must be an even multiple of --heads {options.heads}")
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse_arguments(arguments)
    train_text, train_sha256 = read_text(options.data, options.train_pattern, "train", options.context)
    valid_text, valid_sha256 = read_text(options.data, options.validation_pattern, "validation", options.context)
    # All that a result depends on besides variant and seed: runs of other settings are never compared.
    settings = {name: getattr(options, name.replace("-", "_")) for name in ("lr", *DEFAULTS)}
    settings |= {"train_sha256": train_sha256, "validation_sha256": valid_sha256, "torch": torch.__version__}
    runs = earlier_runs(options.json, settings)
    done = {(run["variant"], run["seed"]) for run in runs}
    # All variants of a seed, then the next seed: what an interrupted benchmark has can be compared already.
    names = dict.fromkeys(options.variants)
    wanted = [(name, seed) for seed in range(options.seeds) for name in names if (name, seed) not in done]
    with progress(description="training", unit="step", total=len(wanted) * options.steps) as bar:
        for name, seed in wanted:
            bar.set_description(f"{name}, seed {seed}")
            runs.append(train(name, seed, options, (train_text, valid_text), bar))
            if options.json:
                summary = summarize(runs)
                headline = {key: row["paired_difference"] for key, row in summary.items() if row["reference"]}
                content = {"settings": settings, "headline": headline, "summary": summary, "runs": runs}
                write_json(options.json, finite(content))
    print(as_markdown(summarize(runs)))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
