"""Races that nobody ran, with curves as real ones have them."""

from __future__ import annotations

import dataclasses
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nlp_adan.race.results import Point, Race, RunResult, Search, Settings

START, END = 9.0, 6.1  # losses, nats
SETTINGS = {
    "adamw": Settings("betas 0.9, 0.999", 2e-3, 0.01),
    "adan": Settings("betas 0.9, 0.9, 0.999", 8e-3, 0.02),
    "sgd": Settings("", 0.25, 0.0),
}
STATE_BYTES = {"adamw": 8_388_608, "adan": 12_582_912, "sgd": 4_194_304}
STEP_SECONDS = {"adamw": 0.25, "adan": 0.27, "sgd": 0.24}


def run_of(
    entrant: str, seed: int, loss: float, *, steps: int = 1500, evaluations: int = 15, noise: float = 0.01,
    **changes: Any,
) -> RunResult:  # fmt: skip
    """A run that falls to `loss` as the learning rate does; its noise hangs on entrant and seed."""
    random = np.random.default_rng(zlib.crc32(f"{entrant}/{seed}".encode()))
    step_seconds = STEP_SECONDS.get(entrant, 0.25) * random.uniform(0.97, 1.03)
    curve = []
    for number in range(1, evaluations + 1):
        step = round(steps * number / evaluations)
        share = step / steps
        here = loss + (START - loss) * math.exp(-4 * share) * (1 - share**3) + noise * random.normal() * (1 - share)
        curve.append(Point(step, step * step_seconds, here if number < evaluations else loss))
    run = RunResult(
        entrant=entrant,
        settings=SETTINGS.get(entrant, SETTINGS["adamw"]),
        seed=seed,
        command=("--recipe", "tiny", "--optim", entrant, "--seed", str(seed)),
        batch_size=32,
        steps=steps,
        tokens=steps * 32 * 128,
        loss=loss,
        curve=tuple(curve),
        step_seconds=step_seconds,
        seconds=steps * step_seconds,
        state_bytes=STATE_BYTES.get(entrant, 8_388_608),
    )
    return dataclasses.replace(run, **changes)


def diverged(run: RunResult) -> RunResult:
    """The run as if it had broken off in its middle."""
    half = run.curve[: len(run.curve) // 2]
    return dataclasses.replace(
        run, loss=math.inf, curve=half, tokens=0, state_bytes=0, diverged="loss 1.2e9 at step 700"
    )


def search_of(entrant: str, rates: Sequence[float], best: float, presets: Sequence[str] = ("",)) -> Search:
    """Short runs of which the loss is a parabola over the logarithm of the learning rate, and the two best again."""
    short = []
    for bad, preset in enumerate(presets):
        for rate in rates:
            loss = 7.0 + 0.15 * math.log2(rate / best) ** 2 + 0.2 * bad
            settings = dataclasses.replace(SETTINGS[entrant], preset=preset, learning_rate=rate)
            run = run_of(entrant, 0, loss, steps=300, settings=settings, curve=())
            short.append(diverged(run) if rate > 7 * best else run)
    ranked = sorted(short, key=lambda run: run.loss)[:2]
    longer = [dataclasses.replace(run, steps=600, loss=run.loss - 0.4, tokens=2 * run.tokens) for run in ranked]
    tried = [run.settings.learning_rate for run in short if run.settings.preset == longer[0].settings.preset]
    chosen = longer[0].settings
    return Search(tuple(short), tuple(longer), chosen, chosen.learning_rate in (min(tried), max(tried)))


def jitter(*of: object) -> float:
    """Chance that is always the same."""
    return float(np.random.default_rng(zlib.crc32(repr(of).encode())).normal(scale=0.01))


SEARCHES = {
    "adamw": search_of("adamw", (2.5e-4, 1e-3, 2e-3, 4e-3, 1.6e-2), 2e-3, ("betas 0.9, 0.999", "betas 0.9, 0.98")),
    "adan": search_of(
        "adan", (1e-3, 4e-3, 8e-3, 1.6e-2, 6.4e-2), 8e-3, ("betas 0.9, 0.9, 0.999", "betas 0.98, 0.92, 0.99")
    ),
    "sgd": search_of("sgd", (0.25, 0.5, 1.0, 4.0), 0.25),
}


def race_of(losses: Mapping[str, Sequence[float | RunResult]], **changes: Any) -> Race:
    """A race with these final losses, or runs, by entrant; seeds from 1."""
    finals = {
        name: tuple(
            each if isinstance(each, RunResult) else run_of(name, seed, each) for seed, each in enumerate(given, 1)
        )
        for name, given in losses.items()
    }
    known: dict[str, Any] = {
        "family": "bert",
        "recipe": "tiny",
        "words": ("--num_hidden_layers", "4"),
        "data": "corpus",
        "budget": "steps:1500",
        "short_share": 0.2,
        "longer_share": 0.4,
        "loss_name": "validation loss of masked tokens",
        "seeds": {name: tuple(range(1, len(given) + 1)) for name, given in losses.items()},
        "searches": {name: SEARCHES.get(name, SEARCHES["adamw"]) for name in losses},
        "finals": finals,
        "environment": {"python": "3.12.1", "torch": "2.6", "cores": 2, "gpus": [], "command": "run_race.py bert"},
        "command": "run_race.py bert --recipe tiny --optim adamw,adan --budget steps:1500 --output_dir runs/race",
    }
    return Race(**known | changes)


def full_race() -> Race:
    """Everything at once: three entrants, a diverged run, batch sizes, published curves, failures, two jobs."""
    losses: dict[str, list[float | RunResult]] = {
        "adamw": [6.121, 6.103, 6.098],
        "adan": [6.075, 6.066, 6.058],
        "sgd": [6.704, 6.751, diverged(run_of("sgd", 3, 6.7))],
    }
    batches: dict[str, dict[int, tuple[RunResult, ...]]] = {}
    searched: dict[str, dict[int, tuple[RunResult, ...]]] = {}
    slopes = {"adamw": 0.12, "adan": 0.05, "sgd": 0.4}
    for name, runs in losses.items():
        batches[name], searched[name] = {}, {}
        for power, size in enumerate((32, 128, 512, 2048)):
            loss = END + slopes[name] * power**1.5
            own = [run_of(name, seed, loss + jitter(name, size, seed), steps=1500 // 4**power, evaluations=5,
                          batch_size=size) for seed in range(1, len(runs) + 1)]  # fmt: skip
            if (name, size) == ("sgd", 2048):
                own[0] = diverged(own[0])
            batches[name][size] = tuple(own)
            rates = [SETTINGS[name].learning_rate * 2.0 ** (power * part) for part in (0, 1, 2)]
            searched[name][size] = tuple(
                run_of(name, 0, 6.5, settings=dataclasses.replace(SETTINGS[name], learning_rate=rate), curve=())
                for rate in dict.fromkeys(rates)
            )
    published = {
        "paper, Adam": [(step, 1.2 + 3 * math.exp(-step / 1.5e5)) for step in range(50_000, 1_000_001, 50_000)],
        "paper, Adan": [(step, 1.19 + 2.9 * math.exp(-step / 1.4e5)) for step in range(50_000, 1_000_001, 50_000)],
    }
    return race_of(
        losses,
        batches=batches,
        batch_searches=searched,
        published=published,
        failures=("sgd lr 4, batch 32, seed 0: RuntimeError: out of memory",),
        jobs=2,
    )
