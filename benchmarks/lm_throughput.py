"""Tokens a second of the language models, beside straightforward ones of the same work, in one run; MFU on a GPU.

    python benchmarks/lm_throughput.py --json lm_throughput.json

Transformer-XL with a plain and with an adaptive softmax beside the research code's layout, LSTMs beside torch's own
(lm_baselines.py). Each pair has the same weights; before it is timed, both sides have to give the same losses and
gradients. Then they take turns in a new order each round: forward, backward, clipping, Adan, the memory carried on. The
optimizer is ours on both sides, so a ratio is of the models alone. Ratios are medians of the ratios within a round.
Three minutes on one CPU core. On an NVIDIA GPU the paper's WikiText-103 model is measured too (lm_mfu.py).
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from lm_baselines import ResearchTransformerXL, TorchLSTM
from lm_mfu import CLIP, measure_all, zipf_tokens
from optimizer_step import STEADY
from torch import Tensor, nn

from nlp_adan import Adan
from nlp_adan.errors import UserError, exit_on_user_error
from nlp_adan.storage import finite, json_file, write_json
from nlp_adan.training.environment import environment
from transformer_xl import AWDLSTMConfig, AWDLSTMForCausalLM, TransformerXLConfig, TransformerXLForCausalLM
from transformer_xl.configuration import check_config
from transformer_xl.lstm_configuration import DROPOUTS, PENALTIES

OURS = "ours"
BARS = {"plain": 1.15, "adaptive": 1.3, "lstm": 1.0}  # least ratio of tokens a second, ours / baseline's
# Largest difference of a loss, in nats, and of the gradient's norm, relative to it. Measured: 9e-6 and 2e-5.
TOLERANCE = 1e-4
PARITY_SEGMENTS, NUM_SEGMENTS, WARM_UP_STEPS = 3, 8, 2
NOISE = 0.15
ADAN = {"lr": 1e-4, "weight_decay": 0.02}

# (tokens, labels, memory), (batch, positions) each, to losses and the next memory.
Forward = Callable[[Tensor, Tensor, Any], tuple[Tensor, Any]]


@dataclasses.dataclass
class Case:
    """A model of ours and its baseline, with the same weights, and what to train them on."""

    name: str
    baseline: str
    meaning: str
    models: dict[str, nn.Module]
    segments: Tensor  # (segments, batch, positions + 1) int64

    @property
    def tokens(self) -> int:
        """Of one step."""
        return self.segments[0, :, 1:].numel()

    def forward(self, side: str) -> Forward:
        """Of one side's model, for batch-first tokens. The turning of the baseline's is a view: it costs nothing."""
        model = self.models[side]
        if side == OURS:

            def ours(ids: Tensor, labels: Tensor, mems: Any) -> tuple[Tensor, Any]:
                output = model(ids, mems=mems, labels=labels)
                return (output.loss if model.training else output.losses), output.mems

            return ours

        def theirs(ids: Tensor, labels: Tensor, mems: Any) -> tuple[Tensor, Any]:
            losses, mems = model(ids.t().contiguous(), labels.t().contiguous(), mems)
            return (losses.mean() if model.training else losses.t()), mems

        return theirs


def transformer_case(name: str, cutoffs: list[int], options: argparse.Namespace) -> Case:
    """A Transformer-XL beside the research code's layout."""
    config = TransformerXLConfig(
        vocab_size=options.vocabulary, d_model=options.width, n_layer=options.layers, n_head=options.heads,
        d_inner=options.inner, tgt_len=options.length, mem_len=options.memory, cutoffs=cutoffs, dropout=options.dropout,
    )  # fmt: skip
    check_config(config, "--")
    ours = with_telling_weights(TransformerXLForCausalLM(config))
    meaning = (
        f"Transformer-XL, {'cutoffs ' + ', '.join(map(str, cutoffs)) if cutoffs else 'one softmax'}: {config.n_layer} "
        f"layers, d_model {config.d_model}, {config.n_head} heads, d_inner {config.d_inner}, vocabulary "
        f"{config.vocab_size}, memory {config.mem_len}, dropout {config.dropout:g}"
    )
    models = {OURS: ours, "research layout": ResearchTransformerXL(ours)}
    return Case(name, "research layout", meaning, models, draw(config.vocab_size, options.batch, options.length))


def lstm_case(name: str, width: int, options: argparse.Namespace) -> Case:
    """An LSTM of one layer beside torch's own; without what torch's has not, dropout of weights and regularisation."""
    config = AWDLSTMConfig(
        vocab_size=options.vocabulary, embedding_size=width, num_layers=1, **dict.fromkeys((*DROPOUTS, *PENALTIES), 0.0)
    )
    ours = with_telling_weights(AWDLSTMForCausalLM(config))
    meaning = f"LSTM, one layer of width {width}, vocabulary {config.vocab_size}, no dropout"
    models = {OURS: ours, "torch.nn.LSTM": TorchLSTM(ours)}
    return Case(
        name, "torch.nn.LSTM", meaning, models, draw(config.vocab_size, options.lstm_batch, options.lstm_length)
    )


def with_telling_weights(model: nn.Module) -> nn.Module:
    """The model with noise on its parameters: fresh ones are too small for a loss to tell if one goes astray."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(torch.randn(param.shape, generator=generator), alpha=NOISE)
    return model


def draw(vocabulary: int, batch: int, length: int) -> Tensor:
    """Segments of random tokens, as frequent as words are: an adaptive softmax goes by that."""
    return zipf_tokens((NUM_SEGMENTS, batch, length + 1), vocabulary)


def all_cases(options: argparse.Namespace) -> list[Case]:
    """In the order of the table."""
    return [
        transformer_case("plain", [], options),
        transformer_case("adaptive", options.cutoffs, options),
        lstm_case("lstm", options.lstm_width, options),
        lstm_case("lstm_small", options.small_lstm_width, options),
    ]


def check_parity(case: Case) -> dict[str, float]:
    """The largest differences of losses and gradients over segments with memory; RuntimeError beyond `TOLERANCE`."""
    losses, norms = {}, {}
    for side, model in case.models.items():
        model.eval()
        forward, mems, found = case.forward(side), None, []
        for segment in case.segments[:PARITY_SEGMENTS]:
            loss, mems = forward(segment[:, :-1], segment[:, 1:], mems)
            found.append(loss)
        found[-1].mean().backward()
        losses[side] = torch.stack(found).detach()
        norms[side] = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        model.zero_grad()
    difference = float((losses[OURS] - losses[case.baseline]).abs().max())
    gradient = float((norms[OURS] - norms[case.baseline]).abs() / norms[case.baseline])
    if not max(difference, gradient) <= TOLERANCE:
        raise RuntimeError(
            f"{case.name}: ours and {case.baseline} are not the same model: losses differ by up to {difference:.1e} "
            f"nats, the gradient's norm by {gradient:.1e} of it; at most {TOLERANCE:.0e} is rounding"
        )
    return {"loss": difference, "gradient_norm": gradient}


def trainer(case: Case, side: str) -> Callable[[int], None]:
    """One training step of a side on the segment of a number."""
    model = case.models[side].train()
    forward = case.forward(side)
    optimizer = Adan(model.parameters(), **ADAN)
    mems: Any = None

    def step(number: int) -> None:
        nonlocal mems
        segment = case.segments[number % NUM_SEGMENTS]
        loss, mems = forward(segment[:, :-1], segment[:, 1:], mems)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens a second of both sides, by the clock and by CPU time, round by round."""
    parity = check_parity(case)
    steps = {side: trainer(case, side) for side in case.models}
    wall: dict[str, list[float]] = {side: [] for side in steps}
    cpu: dict[str, list[float]] = {side: [] for side in steps}
    for step in steps.values():
        for number in range(WARM_UP_STEPS):
            step(number)
    for _ in range(options.rounds):
        for side in random.sample(list(steps), len(steps)):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            for number in range(options.steps):
                steps[side](number)
            cpu[side].append(case.tokens * options.steps / (time.process_time() - cpu_begin))
            wall[side].append(case.tokens * options.steps / (time.perf_counter() - begin))
    sides = {}
    for side in steps:
        low, median, high = statistics.quantiles(wall[side], n=4, method="inclusive")
        sides[side] = {
            "tokens_per_second": median,
            "quartiles": [low, high],
            "all_tokens_per_second": wall[side],
            "tokens_per_cpu_second": statistics.median(cpu[side]),
        }

    def ratio(rates: dict[str, list[float]]) -> float:
        return statistics.median(a / b for a, b in zip(rates[OURS], rates[case.baseline], strict=True))

    return {
        "meaning": case.meaning,
        "baseline": case.baseline,
        "tokens_per_step": case.tokens,
        "num_parameters": sum(p.numel() for p in case.models[OURS].parameters()),
        "parity": parity,
        "ratio": ratio(wall),
        "cpu_ratio": ratio(cpu),
        "sides": sides,
    }


def report(result: dict[str, Any], options: argparse.Namespace) -> str:
    """The tables as Markdown, after a summary in one line; then the bars."""
    unsteady = "" if result["steady"] else "; UNSTEADY: other programs ran meanwhile, repeat it when none do"
    lines = [
        f"language models on CPU: {result['plain']:.2f} times the research layout's tokens a second with a plain "
        f"softmax, {result['adaptive']:.2f} with an adaptive one, {result['lstm']:.2f} times torch's LSTM{unsteady}",
        f"\n{options.rounds} rounds of {options.steps} steps (forward, backward, clipping at {CLIP}, nlp_adan.Adan on "
        f"both sides); torch {torch.__version__}, threads: {options.threads}, {result['machine']['cpu']}\n",
    ]
    for case in result["cases"].values():
        parity = case["parity"]
        lines += [
            f"{case['meaning']}; {case['tokens_per_step']:,} tokens a step. Losses differ by up to "
            f"{parity['loss']:.1e} nats, the gradient's norm by {parity['gradient_norm']:.1e} of it.\n",
            "| side | tokens/s, median | quartiles | tokens per CPU second |",
            "|---|---:|---:|---:|",
        ]
        for side, row in case["sides"].items():
            low, high = row["quartiles"]
            lines.append(
                f"| {side} | {row['tokens_per_second']:,.0f} | {low:,.0f}..{high:,.0f} | "
                f"{row['tokens_per_cpu_second']:,.0f} |"
            )
        lines.append(f"| ours / {case['baseline']} | {case['ratio']:.2f} | | {case['cpu_ratio']:.2f} |\n")
    if result["gpu"]:
        lines += ["| GPU | ms a step | tokens/s | MFU |", "|---|---:|---:|---:|"]
        for name, row in result["gpu"].items():
            mfu = "-" if row.get("mfu") is None else f"{row['mfu']:.2f}"
            cells = row.get("error") or f"{row['milliseconds']:.1f} | {row['tokens_per_second']:,.0f} | {mfu}"
            lines.append(f"| {name} | {cells} |")
    else:
        lines.append("- GPU, wt103-base: not measured: it wants an NVIDIA GPU")
    for name, bound in BARS.items():
        value = result[name]
        verdict = "met" if value >= bound else "NOT met"
        lines.append(f"- {name}: tokens a second, ours / baseline's: {value:.2f} (at least {bound}): {verdict}")
    return "\n".join(lines)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; a UserError for what cannot be measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sizes = {
        "layers": 4, "width": 128, "heads": 4, "inner": 512, "length": 64, "memory": 64, "batch": 16,
        "vocabulary": 10000, "lstm_width": 400, "small_lstm_width": 64, "lstm_batch": 20, "lstm_length": 70,
    }  # fmt: skip
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"of the models (default: {default})")
    parser.add_argument(
        "--cutoffs", type=int, nargs="+", default=[2000, 4000], help="of the adaptive softmax (default: 2000 4000)"
    )
    parser.add_argument("--dropout", type=float, default=0.1, help="of the Transformer-XLs (default: 0.1, the paper's)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each side (default: 15)")
    parser.add_argument("--steps", type=int, default=5, help="timed steps of a turn (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    parser.add_argument("--no_gpu", action="store_true", help="leave the GPU out where there is one")
    parser.add_argument("--json", type=json_file, metavar="FILE", help="also write the figures here")
    options = parser.parse_args(words)
    for name, least in {**dict.fromkeys((*sizes, "steps", "threads"), 1), "rounds": 2}.items():
        if getattr(options, name) < least:
            raise UserError(f"--{name} must be {least} or more, got {getattr(options, name)}")
    return options


def main() -> None:
    """Read the command line, measure, print the tables, write the JSON file."""
    options = parse()
    torch.set_num_threads(options.threads)
    cases = {case.name: measure(case, options) for case in all_cases(options)}
    rows = [row for case in cases.values() for row in case["sides"].values()]
    result = {
        "headline": cases["plain"]["ratio"],
        **{name: case["ratio"] for name, case in cases.items()},
        "bars": BARS,
        "steady": all(row["quartiles"][1] <= STEADY * row["quartiles"][0] for row in rows),
        "cases": cases,
        "gpu": measure_all(torch.device("cuda")) if torch.cuda.is_available() and not options.no_gpu else None,
        "machine": environment(),
        "options": {name: value for name, value in vars(options).items() if name != "json"},
    }
    print(report(result, options))
    if options.json:
        write_json(options.json, finite(result))


if __name__ == "__main__":
    with exit_on_user_error():
        main()
