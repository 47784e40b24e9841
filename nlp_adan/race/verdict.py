"""The verdict of a race: every entrant against the first one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nlp_adan.race.comparison import Claim, Comparison, compare
from nlp_adan.race.results import Race
from nlp_adan.race.statistics import corrected_confidence
from nlp_adan.race.wording import sentence


@dataclass(frozen=True)
class Verdict:
    """baseline: the first entrant. confidence: of every interval. comparisons: the other entrants, in their order."""

    baseline: str
    confidence: float
    comparisons: tuple[Comparison, ...]

    @property
    def claims(self) -> dict[str, Claim]:
        """By entrant: "better", "worse" or "none"."""
        return {found.entrant: found.claims for found in self.comparisons}

    @property
    def sentences(self) -> dict[str, str]:
        """By entrant."""
        return {found.entrant: f"{sentence(found)}." for found in self.comparisons}

    @property
    def sentence(self) -> str:
        """All sentences, in one line."""
        return " ".join(self.sentences.values()) or f"{self.baseline} ran alone: nothing to compare."

    def to_json(self) -> dict[str, Any]:
        """A JSON object: `sentence`, `claims`, `confidence`, and the `comparisons` by entrant with their sentences."""
        return {
            "sentence": self.sentence,
            "baseline": self.baseline,
            "confidence": self.confidence,
            "claims": self.claims,
            "comparisons": {
                found.entrant: {"sentence": self.sentences[found.entrant], **found.to_json()}
                for found in self.comparisons
            },
        }


def verdict(race: Race) -> Verdict:
    """Over the final runs: each entrant beside the first one, in pairs of equal places in `race.seeds`.

    The final loss decides: a difference is claimed where the Student-t interval of the paired differences excludes 0,
    or where only one of both diverged. With more than one comparison the intervals are the wider ones of Bonferroni's
    correction, so that in at most 5 % of races any difference is claimed where there is none.
    """
    baseline, *others = race.entrants
    confidence = corrected_confidence(len(others))
    return Verdict(baseline, confidence, tuple(compare(race, name, baseline, confidence) for name in others))
