"""Does a race claim a difference where there is none, and does it see one where there is?

    python benchmarks/race_control.py --json race_control.json

Races of AdamW against itself with other seeds, on a small LSTM and the built-in corpus: with intervals of 95 %, one in
twenty may claim a difference. Then as many with a hundred times the learning rate on one side, which has to lose.
`headline` is the share of the control races that claim a difference.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from nlp_adan.errors import exit_on_user_error
from nlp_adan.race.conduct import conduct_race
from nlp_adan.race.options import parse_race
from nlp_adan.race.results import Race
from nlp_adan.race.setup import prepare_race
from nlp_adan.race.verdict import verdict
from nlp_adan.storage import finite, json_file, write_json
from nlp_adan.training.environment import environment

DOOR = "transformer_xl.pretrain:lstm_pretraining"
SMALL = (
    "--recipe tiny --max_vocab 1000 --embedding_size 32 --hidden_size 32 --tgt_len 16 --random_lengths false "
    "--global_batch_size 8 --max_valid_tokens 4000 --evaluations 2 --disable_tqdm true"
)
RATE, BAD_RATE = 1e-2, 1.0
ITSELF = "adamw-2"


def races(folder: Path, options: argparse.Namespace, rates: list[str]) -> list[Race]:
    """Races of `seeds` pairs each, made of the runs of one."""
    number = options.races * options.seeds
    words = [*SMALL.split(), "--optim", "adamw,adamw", "--lr", *rates, "--budget", f"steps:{options.steps}"]
    words += ["--seeds", str(number), "--jobs", str(options.jobs), "--output_dir", str(folder)]
    whole = conduct_race(prepare_race("lstm", DOOR, *parse_race(words)))
    parts = []
    for begin in range(0, number, options.seeds):
        part = slice(begin, begin + options.seeds)
        seeds = {name: seeds[part] for name, seeds in whole.seeds.items()}
        finals = {name: runs[part] for name, runs in whole.finals.items()}
        parts.append(dataclasses.replace(whole, seeds=seeds, finals=finals))
    return parts


def row(race: Race) -> dict[str, Any]:
    """What one race found."""
    found = verdict(race)
    first, other = (race.finals[name] for name in race.entrants)
    return {
        "claim": found.claims[ITSELF],
        "sentence": found.sentence,
        "losses": [[run.loss for run in runs] for runs in (first, other)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--races", type=int, default=20, help="of each kind (default: 20)")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of a race (default: 3)")
    parser.add_argument("--steps", type=int, default=60, help="of a run (default: 60)")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time (default: 2)")
    parser.add_argument("--json", type=json_file, help="write the figures to this file")
    with exit_on_user_error():
        options = parser.parse_args()
    with exit_on_user_error(), tempfile.TemporaryDirectory() as folder:
        kinds = {
            "against itself": [f"{RATE:g}"],
            "against a hundred times the rate": [f"adamw={RATE:g}", f"{ITSELF}={BAD_RATE:g}"],
        }
        # One folder: the first entrant's runs are the same in both, and are done once.
        found = {kind: [row(race) for race in races(Path(folder), options, rates)] for kind, rates in kinds.items()}
    print(f"\n{options.races} races of {options.seeds} seeds each, {options.steps} steps\n")
    print("| AdamW | better | worse | no difference shown |\n|---|---:|---:|---:|")
    for kind, rows in found.items():
        counts = collections.Counter(each["claim"] for each in rows)
        print(f"| {kind} | {counts['better']} | {counts['worse']} | {counts['none']} |")
    claimed = sum(each["claim"] != "none" for each in found["against itself"]) / options.races
    if options.json:
        data = {"headline": claimed, "races": found, "options": vars(options) | {"json": None}}
        write_json(options.json, finite({**data, "environment": environment()}))


if __name__ == "__main__":
    main()
