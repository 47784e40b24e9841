"""What a race's runs are: their words, keys and folders, and what must be right before the first of them begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from nlp_adan.errors import UserError
from nlp_adan.race.budget import Budget
from nlp_adan.race.entrants import Entrant
from nlp_adan.race.results import FORMAT, Settings
from nlp_adan.race.run import open_door, race_run
from nlp_adan.runs import Run
from nlp_adan.runs.code import code_sha256, versions
from nlp_adan.storage import sha256_json
from nlp_adan.training.environment import same_environment
from nlp_adan.training.recipe import given_options, resolved
from nlp_adan.training.settings import WATCHING

RECORD = "race.json"
RUNS = "runs"
SHOWN_DIGITS = 8  # of a key, in a run's folder's name
SAVES = 4  # in a run
LOG_LINES = 20  # in a run, at least; steps between two, where hours are the budget
# An optimizer's own, which a recipe sets for its own one, with the value that is usual for others.
USUAL = {
    field.name: field.default
    for field in dataclasses.fields(TrainingArguments)
    if field.name in ("adam_beta1", "adam_beta2", "adam_epsilon")
}


@dataclass(frozen=True)
class Track:
    """What all runs of a race have in common.

    door: makes a run of its words. words: the user's, for the family. options: as they resolve with these words.
    data_key: of the prepared data. batch_size: the recipe's.
    """

    folder: Path
    door: str
    words: tuple[str, ...]
    options: dict[str, Any]
    data_key: str
    batch_size: int
    budget: Budget
    evaluations: int
    keep_models: bool

    def run(
        self, entrant: Entrant, settings: Settings, seed: int, *, share: float = 1.0, batch_size: int | None = None,
        curve: bool = True, eval_steps: int | None = None,
    ) -> Run:  # fmt: skip
        """The run of an entrant with settings and a seed.

        Args:
            share: of the budget.
            batch_size: sequences a step; None: the recipe's. The number of sequences in all stays what it is.
            curve: whether to evaluate on the way.
            eval_steps: between evaluations; None: by the budget.
        """
        size = batch_size or self.batch_size
        budget = self.budget.at_batch_size(size, self.batch_size).share(share)
        every = eval_steps or budget.eval_steps(self.evaluations if curve else 1, self._recipes_eval_steps)
        words = [
            *self.words, *budget.words, *self._length_words(budget, every),
            "--optim", entrant.optimizer, *self._usual_words(entrant), *entrant.preset(settings.preset).words,
            "--learning_rate", f"{settings.learning_rate:g}", "--weight_decay", f"{settings.weight_decay:g}",
            "--seed", str(seed), "--warmup_steps", self._warm_up(),
            *(["--global_batch_size", str(size)] if batch_size is not None else []),
        ]  # fmt: skip
        key = self._key(words)
        name = f"{entrant.optimizer.removesuffix('_torch')}-lr{settings.learning_rate:g}-seed{seed}"
        rank = budget.steps * size if budget.steps is not None else budget.hours
        return Run(
            name=f"{entrant.name} lr {settings.learning_rate:g}, {settings.preset}, batch {size}, seed {seed}, "
            f"{share:.3g} of the budget",
            folder=self.folder / RUNS / f"{name}-{key[:SHOWN_DIGITS]}",
            function=race_run,
            arguments={
                "door": self.door,
                "words": words,
                "entrant": entrant.name,
                "settings": settings,
                "keep_model": self.keep_models,
            },
            work=float(rank or 1.0),
        )

    @property
    def _recipes_eval_steps(self) -> int:
        """Between evaluations where the number of steps is not known; 0 where the recipe does not say."""
        steps = self.options["eval_steps"] if self.options["eval_strategy"] == "steps" else None
        return int(steps or 0)

    def _length_words(self, budget: Budget, eval_steps: int) -> list[str]:
        """Evaluations, checkpoints and log lines, for a run of this length."""
        words = ["--eval_strategy", "steps", "--eval_steps", str(eval_steps), "--load_best_model_at_end", "false"]
        words += ["--save_strategy", "steps", "--save_total_limit", "1", "--logging_strategy", "steps"]
        logging_steps = LOG_LINES if budget.steps is None else -(-budget.steps // LOG_LINES)
        # A share of the steps, or a number of them.
        given = float(self.options["logging_steps"])
        words += ["--logging_steps", str(min(int(given), logging_steps) if given >= 1 else logging_steps)]
        return words if budget.steps is None else [*words, "--save_steps", str(-(-budget.steps // SAVES))]

    def _warm_up(self) -> str:
        """The warm-up as a share of the run, which short runs have too: the recipe's, of the recipe's length; the
        command line's, of the budget.
        """
        steps = float(self.options["warmup_steps"] or 0)
        if steps and self.budget.hours is not None and self.options.get("warmup_on_top"):
            raise UserError(
                f"--warmup_on_top: in {self.budget.text} a warm-up is a share of the time, and comes before the "
                "schedule; add `--warmup_on_top false`"
            )
        if steps < 1:
            return f"{steps:g}"
        length = int(self.options["max_steps"] or -1)
        if length <= 0 or "warmup_steps" in given_options(self.words):
            length = self.budget.steps or 0
        if not length:
            raise UserError(
                f"--warmup_steps: {steps:g} steps are no known share of {self.budget.text}; give a share, such as 0.06"
            )
        if steps >= length:
            raise UserError(
                f"--warmup_steps: {steps:g} of the {length:,} steps of a run; give fewer, or a share as 0.06"
            )
        return f"{min(0.99, steps / length):.4g}"

    def _usual_words(self, entrant: Entrant) -> list[str]:
        """For an optimizer that is not the recipe's: the usual values in the place of the recipe's own."""
        if self.options["optim"] == entrant.optimizer:
            return []
        said = given_options(self.words)
        changed = {name: usual for name, usual in USUAL.items() if name not in said and self.options[name] != usual}
        return [word for name, usual in changed.items() for word in (f"--{name}", f"{usual:g}")]

    def _key(self, words: Sequence[str]) -> str:
        with same_environment():
            options = open_door(self.door)([*words, "--output_dir", str(self.folder / RUNS)]).options.resolved()
        acting = {name: value for name, value in options.items() if name not in WATCHING | {"data", "given"}}
        return sha256_json([FORMAT, self.door, acting, self.data_key, *self.made_by])

    @property
    def made_by(self) -> tuple[str, dict[str, str]]:
        """The code that computes, hashed, and the versions of the libraries."""
        return code_sha256(*_computes(self.door)), versions()


def _computes(door: str) -> tuple[str, ...]:
    """The modules that a run executes."""
    return (door.partition(":")[0], race_run.__module__)


def check_folder(folder: Path) -> None:
    """Raise a UserError unless a race may be in this folder."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"--output_dir: {str(there)!r} is a file; choose a folder")
    # A call that was killed before it wrote its record leaves a lock.
    is_other = there == folder and not (folder / RECORD).is_file()
    if is_other and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise UserError(f"--output_dir: {str(folder)!r} is not empty and holds no race; choose another folder")


def recipe_options(family: Any) -> dict[str, Any]:
    """All options of a family's run by name, with the recipe's values where the command line says nothing."""
    return resolved(*family.options)
