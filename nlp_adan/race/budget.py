"""How long a run is: steps, tokens or hours, and shares of them for the search."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nlp_adan.errors import UserError, nearest

KINDS = ("steps", "tokens", "hours")
# Of the shortest run: with fewer, a schedule with a warm-up is none, and no loss tells two rates apart.
LEAST_STEPS, LEAST_HOURS = 20, 10 / 3600
UNKNOWN_EVAL_STEPS, NEVER = 100, 1_000_000_000


@dataclass(frozen=True)
class Budget:
    """Of a final run. Exactly one of `steps` (at the recipe's batch size) and `hours` is given."""

    text: str
    steps: int | None
    hours: float | None

    def share(self, share: float) -> Budget:
        """A part of it."""
        return Budget(
            self.text,
            None if self.steps is None else max(1, round(share * self.steps)),
            None if self.hours is None else share * self.hours,
        )

    def at_batch_size(self, size: int, usual: int) -> Budget:
        """The same number of sequences in batches of another size; the same hours."""
        return Budget(self.text, None if self.steps is None else max(1, round(self.steps * usual / size)), self.hours)

    @property
    def words(self) -> list[str]:
        """For run_pretrain.py."""
        return ["--max_hours", f"{self.hours:.6g}"] if self.steps is None else ["--max_steps", str(self.steps)]

    def eval_steps(self, evaluations: int, recipes: int = 0) -> int:
        """Steps between evaluations, a divisor of all steps where one is near; of 1 evaluation, that at the end.

        recipes: what the recipe says, for a budget whose steps are not known.
        """
        if self.steps is None:
            return max(recipes, UNKNOWN_EVAL_STEPS) if evaluations > 1 else NEVER
        wanted = max(1, self.steps // evaluations)
        near = [every for every in range(wanted, min(2 * wanted, self.steps) + 1) if self.steps % every == 0]
        return near[0] if near else wanted

    def check(self, shares: Mapping[str, float]) -> None:
        """Raise a UserError where a part of it, by the option that says how large, is too short to tell anything."""
        for option, share in shares.items():
            part = self.share(share)
            if part.steps is not None and part.steps < LEAST_STEPS:
                least = math.ceil(LEAST_STEPS / share)
                what = f"--{option} {share:g} of it are" if share < 1 else "it is"
                remedy = ", or say with --lr one learning rate for each optimizer" if share < 1 else ""
                raise UserError(
                    f"--budget: {self.text} is too small: {what} {part.steps} steps; "
                    f"give at least steps:{least}{remedy}"
                )
            if part.hours is not None and part.hours < LEAST_HOURS:
                what = f"--{option} {share:g} of it are" if share < 1 else "it is"
                raise UserError(
                    f"--budget: {self.text} is too small: {what} {3600 * part.hours:.1f} seconds; "
                    f"give at least hours:{LEAST_HOURS / share:.2g}"
                )


def parse_budget(text: str | None, recipe: Mapping[str, Any], tokens_per_step: int) -> Budget:
    """A budget as the command line says it, or else the recipe's length.

    recipe: its options, of which `max_steps` or `max_hours` say how long it is.

    Raises: UserError for text that is no budget, and where neither says it.
    """
    if text is None:
        if recipe.get("max_hours"):
            return Budget(f"hours:{recipe['max_hours']:g}", None, float(recipe["max_hours"]))
        if (recipe.get("max_steps") or -1) > 0:
            return Budget(f"steps:{recipe['max_steps']}", int(recipe["max_steps"]), None)
        raise UserError("--budget: the recipe counts passes over the data; say how long a run is, such as steps:1500")
    kind, separator, number = text.partition(":")
    if kind not in KINDS or not separator:
        raise UserError(
            f"--budget: {text!r} is none{nearest(kind, KINDS)}; give steps:N, tokens:N or hours:H, such as steps:1500"
        )
    try:
        amount = float(number.replace("_", "").replace(",", ""))
    except ValueError:
        raise UserError(f"--budget: {number!r} is not a number; give {kind}:N, such as {kind}:1500") from None
    if not 0 < amount < math.inf:
        raise UserError(f"--budget: {text} is out of range; give more than 0")
    if kind == "hours":
        return Budget(text, None, amount)
    return Budget(text, max(1, round(amount if kind == "steps" else amount / tokens_per_step)), None)
