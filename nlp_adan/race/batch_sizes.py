"""Learning rates for other batch sizes: that of the usual size, and what the usual rules make of it."""

from __future__ import annotations

import dataclasses

from nlp_adan.race.results import Settings

# Unchanged; with the root of the size, as the noise of Adam's gradients suggests (Malladi et al. 2022); with the size.
POWERS = (0.0, 0.5, 1.0)


def settings_at(settings: Settings, ratio: float) -> list[Settings]:
    """The settings to try at a batch size that is `ratio` times the one which they were chosen at; at 1 the same."""
    rates = dict.fromkeys(float(f"{settings.learning_rate * ratio**power:.4g}") for power in POWERS)
    return [dataclasses.replace(settings, learning_rate=rate) for rate in rates]
