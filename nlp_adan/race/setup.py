"""From a command line to a race that may begin: everything is checked before the first run starts."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nlp_adan.errors import UserError, nearest
from nlp_adan.pretraining.flow import Pretraining
from nlp_adan.race.budget import Budget, parse_budget
from nlp_adan.race.conduct import Setup, race_and_report
from nlp_adan.race.entrants import Entrant, check_can_be_made, make_entrants
from nlp_adan.race.options import (
    RaceOptions,
    batch_sizes,
    entrant_names,
    learning_rates,
    numbers_of_each,
    optimizer_names,
    parse_race,
)
from nlp_adan.race.planning import RUNS, Track, check_folder
from nlp_adan.race.results import Settings
from nlp_adan.race.run import open_door
from nlp_adan.race.search import LONGER
from nlp_adan.runs.execution import start_server
from nlp_adan.training.engine import quiet_libraries
from nlp_adan.training.environment import environment, same_environment
from nlp_adan.training.recipe import UnknownOption, given_options


def race(family: str, door: str, words: Sequence[str]) -> int:
    """`run_race.py FAMILY WORDS`; how many runs failed.

    door: `run.open_door`.

    Raises: UserError for a mistake that was found before the first run; nothing is written then.
    """
    quiet_libraries()
    options, rest = parse_race(words)
    setup = prepare_race(family, door, options, rest)
    print(beginning(setup), flush=True)
    return 0 if options.dry_run else race_and_report(setup)


def prepare_race(family: str, door: str, options: RaceOptions, words: list[str]) -> Setup:
    """Check everything, and prepare the data once for all runs."""
    folder = Path(options.output_dir)
    check_folder(folder)
    optimizers = optimizer_names(options.optim)
    names = entrant_names(optimizers)
    rates = learning_rates(options.lr, names)
    decays = numbers_of_each("weight_decay", options.weight_decay, names)
    sizes = batch_sizes(options.batch_sizes)
    make = open_door(door)
    if not torch.accelerator.is_available():
        start_server([door.partition(":")[0]])  # it imports while this process does
    with same_environment():
        run = _first(make, [*words, "--output_dir", str(folder / RUNS)])
        recipe = run.options.resolved()
        _check_words(words, recipe, sizes)
        for optimizer in dict.fromkeys(optimizers):
            given = make([*words, "--optim", optimizer, "--output_dir", str(folder / RUNS)])
            check_can_be_made(optimizer, given.options.engine)
        entrants = make_entrants(optimizers, rates, decays, recipe)
        batch_size = run.options.engine.num_sequences_per_step
        run.check()
        data = run.prepare()
        _check_validation(run, data)
        length = run.sequence_length(data)
    budget = parse_budget(options.budget, recipe, batch_size * length)
    _check_budget(budget, options, entrants, sizes, batch_size)
    track = Track(
        folder=folder,
        door=door,
        words=tuple(words),
        options=recipe,
        data_key=str(data.manifest["key"]),
        batch_size=batch_size,
        budget=budget,
        evaluations=options.evaluations,
        keep_models=options.keep_models,
    )
    _check_runs(track, entrants, sizes)
    engine = run.options.engine
    return Setup(
        track=track,
        entrants=entrants,
        options=options,
        sizes=sizes,
        known={"family": family, **_known(run, track, options)},
        preload=[door.partition(":")[0]],
        devices=() if engine.use_cpu else None,
        bar=not engine.disable_tqdm,
    )


def _first(make: Callable[[Sequence[str]], Pretraining[Any]], words: list[str]) -> Pretraining[Any]:
    """A run of the family; where an option is unknown to it, one of the race's may have been meant."""
    try:
        return make(words)
    except UnknownOption as error:
        own = [f"--{field.name}" for field in dataclasses.fields(RaceOptions)]
        if hint := nearest(error.word.partition("=")[0], own):
            raise UserError(f"unknown option {error.word!r}{hint}; see run_race.py FAMILY --help") from error
        raise


def _known(run: Pretraining[Any], track: Track, options: RaceOptions) -> dict[str, Any]:
    """What a race says of itself (`results.Race`) besides its family and what its runs find."""
    return {
        "recipe": str(track.options["recipe"]),
        "words": track.words,
        "data": str(track.options["data"] or "the built-in corpus"),
        "budget": track.budget.text,
        "short_share": options.short_share,
        "longer_share": options.longer_share,
        "loss_name": run.loss_in_words,
        "environment": environment(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "jobs": options.jobs,
        "published": _published(run, track.options),
    }


def _check_words(words: Sequence[str], recipe: dict[str, Any], sizes: Sequence[int]) -> None:
    """What a run takes and a race cannot."""
    if sizes and "gradient_accumulation_steps" in given_options(words):
        raise UserError(
            "--gradient_accumulation_steps beside `--batch_sizes`: they follow from the size; leave them out, or say "
            "the usual size with `--global_batch_size`"
        )
    if recipe["lr_scheduler_type"] == "reduce_lr_on_plateau":
        raise UserError(
            "--lr_scheduler_type: reduce_lr_on_plateau goes by evaluations, of which a short run has one; choose "
            "linear, cosine or another schedule with an end"
        )


def _check_runs(track: Track, entrants: Sequence[Entrant], sizes: Sequence[int]) -> None:
    """Make a run of each kind: its words are read as they are when it begins."""
    for entrant in entrants:
        settings = Settings(entrant.presets[0].name, entrant.first_rate, entrant.weight_decay)
        for size in (None, *sizes):
            track.run(entrant, settings, entrant.search_seed, batch_size=size)


def _check_validation(run: Pretraining[Any], data: Any) -> None:
    """A race is decided on text that nobody trained on."""
    if len(data.valid) < 2:
        raise UserError(
            f"--data: recipe {run.options.data.recipe} has no validation data in {data.folder}, and a race is decided "
            "on them; give more text, or a larger --valid_fraction"
        )


def _check_budget(
    budget: Budget, options: RaceOptions, entrants: Sequence[Entrant], sizes: Sequence[int], usual: int
) -> None:
    budget.check({"budget": 1.0})
    if any(len(entrant.rates) != 1 for entrant in entrants):
        budget.check({"short_share": options.short_share, "longer_share": options.longer_share})
        if options.longer_share < options.short_share:
            raise UserError(
                f"--longer_share {options.longer_share:g} is shorter than --short_share {options.short_share:g}; the "
                "best short runs are run again for longer"
            )
    for size in sizes:
        at_size = budget.at_batch_size(size, usual)
        try:
            at_size.check({"budget": 1.0})
        except UserError:
            raise UserError(
                f"--batch_sizes: {size} sequences a step leave {at_size.steps} steps of {budget.text}; choose smaller "
                "ones, or a larger --budget"
            ) from None


def _published(run: Pretraining[Any], recipe: dict[str, Any]) -> dict[str, list[tuple[float, float]]]:
    """The published validation curves of the recipe with Adan and of its twin with Adam, where there are."""
    name = str(recipe["recipe"]).removesuffix("-adam")
    curves = [run.kind.published(each) for each in (name, f"{name}-adam")]
    return {curve.name: [(float(step), curve.to_nats(loss)) for step, loss in curve.valid] for curve in curves if curve}


def beginning(setup: Setup) -> str:
    """The plan in a few lines."""
    track, options = setup.track, setup.options
    lines = [
        f"{' against '.join(entrant.name for entrant in setup.entrants)}: {setup.known['family']}, recipe "
        f"{setup.known['recipe']}, on {setup.known['data']}; {track.budget.text} a run, {options.seeds} seeds"
    ]
    for entrant in setup.entrants:
        runs = options.search_runs if not entrant.rates else len(entrant.rates) * len(entrant.presets)
        presets = " or ".join(preset.name for preset in entrant.presets)
        if len(entrant.rates) == 1:
            search = f"learning rate {entrant.rates[0]:g}, not searched"
        else:
            rates = f"from {entrant.first_rate:g} on" if not entrant.rates else f"of {len(entrant.rates)} given"
            search = (
                f"search: learning rates {rates}, {runs} runs of {options.short_share:.3g} of the budget, the "
                f"{min(LONGER, runs)} best again with {options.longer_share:.3g}"
            )
        lines.append(f"  {entrant.name}: {presets}, weight decay {entrant.weight_decay:g}; {search}")
    if setup.sizes:
        lines.append(f"  then at {', '.join(map(str, setup.sizes))} sequences a step")
    return "\n".join(lines)
