"""The report of a race: every section, what it names and warns of, and the same for programs."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from nlp_adan.race.report import notices, write_race_report
from nlp_adan.race.report_batches import batch_confidence, batch_differences
from nlp_adan.race.report_curves import seed_band
from nlp_adan.race.report_sections import budget_text, command_of
from nlp_adan.race.results import Point, Race, RunResult, Search
from nlp_adan.race.statistics import t_interval
from nlp_adan.race.verdict import verdict
from nlp_adan.reporting.plots import Trace, trace_plot
from tests.unit.race_runs import SEARCHES, SETTINGS, diverged, full_race, race_of, run_of

ADAMW, ADAN = [6.121, 6.103, 6.098], [6.075, 6.066, 6.058]
PLOTS = ("curves_steps", "curves_steps_late", "curves_time_late", "curves_differences", "learning_rates")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the report of a race with everything in it."""
    folder = tmp_path_factory.mktemp("race") / "new"
    write_race_report(folder, full_race())
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are the dear part of a report: where the words are in question they stay empty."""
    for name in ("report_curves.trace_plot", "report_curves.panel_plot", "report_search.trace_plot"):
        monkeypatch.setattr(f"nlp_adan.race.{name}", lambda *args, **kwargs: "<svg/>")


def markdown(folder: Path, race: Race) -> str:
    write_race_report(folder, race)
    return (folder / "report.md").read_text()


def sections(text: str) -> dict[str, str]:
    """The text of each section by its title."""
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in text.split("\n## ")[1:]}


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first head is this one, without heads."""
    lines = text[text.index(f"| {first}") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def without_search(race: Race) -> Race:
    searches = {name: Search((), (), SETTINGS[name], False) for name in race.entrants}
    return dataclasses.replace(race, searches=searches)


def test_the_verdict_comes_first_and_is_returned(tmp_path: Path) -> None:
    race = race_of({"adamw": ADAMW, "adan": ADAN})
    found = write_race_report(tmp_path, race)
    assert found == verdict(race) and found.claims == {"adan": "better"}
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert lines[0] == "# Race: adamw, adan on bert, recipe tiny" and lines[2] == f"**{found.sentence}**"
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*(f"{name}.svg" for name in PLOTS), "report.html", "report.json", "report.md"]
    )
    html = (tmp_path / "report.html").read_text()
    assert html.index("adan ends 0.041 nats lower than adamw") < html.index("<h2>")
    assert (
        html.count("<svg") == len(PLOTS)
        and "<script" not in html
        and "http" not in re.sub(r'xmlns\S*="[^"]*"', "", html)
    )


def test_every_section_of_a_full_race(full: Path) -> None:
    found = sections((full / "report.md").read_text())
    assert list(found) == [
        "The verdict in figures", "Curves", "Final runs", "Failed runs", "Batch sizes", "Learning rates", "Settings",
        "Beside the published curves", "What this race does not show", "Environment", "To repeat it",
    ]  # fmt: skip
    for path in full.glob("*.svg"):
        assert ElementTree.fromstring(path.read_text()).tag.endswith("svg")
        assert f"]({path.name})" in (full / "report.md").read_text()
    assert {path.stem for path in full.glob("*.svg")} == {*PLOTS, "batch_sizes", "published"}


def test_the_figures_of_the_verdict(full: Path) -> None:
    rows = {row[0]: row[1:] for row in table((full / "report.md").read_text(), "What ")}
    assert rows["Final loss less adamw's, nats"] == ["-0.041 (-0.057 to -0.025)", "-"]
    assert rows["Claim"] == ["ends lower", "ends higher, or diverges"]
    assert rows["Steps (and samples) to adamw's final loss, share of adamw's"] == [
        "84 % (79 to 89 %)", "not reached with 3 of 3 seeds",
    ]  # fmt: skip
    assert rows["adamw's steps (and samples) to the entrant's final loss, share of the entrant's"][0] == (
        "not reached with 3 of 3 seeds"
    )
    assert rows["Memory of the optimizer's state, ratio to adamw's"] == ["1.50", "0.50"]
    assert rows["Time a step, ratio to adamw's"][0].startswith("1.08 (")
    assert "97.5 % because there are 2 comparisons (Bonferroni)" in (full / "report.md").read_text()


@pytest.mark.usefixtures("undrawn")
def test_samples_stand_apart_where_the_batch_sizes_differ(tmp_path: Path) -> None:
    runs = [run_of("adan", seed, loss, steps=750, batch_size=64) for seed, loss in enumerate(ADAN, 1)]
    text = markdown(tmp_path, race_of({"adamw": ADAMW, "adan": runs}))
    rows = {row[0]: row[1] for row in table(text, "What ")}
    steps, samples = (rows[f"{kind} to adamw's final loss, share of adamw's"] for kind in ("Steps", "Samples"))
    assert (steps[:4], samples[:4]) == ("42 %", "84 %")
    assert "| Sequences a step " in text and "| 32, 64 " in text


def test_final_losses_by_seed(full: Path) -> None:
    rows = table(sections((full / "report.md").read_text())["Final runs"], "Seed")
    assert rows[0] == ["1", "6.121", "6.075", "6.704", "-0.046", "+0.583"]
    assert rows[2] == ["3", "6.098", "6.058", "diverged", "-0.040", "-"]
    assert rows[3] == ["mean", "6.107", "6.066", "-", "-0.041", "-"]
    rows = table(sections((full / "report.md").read_text())["Final runs"], "Entrant")
    assert rows[1] == ["adan", "0.009", "1,500", "6.14 M", "0.272 s", "6.8 min", "12.6 MB", "0 of 3"]
    assert rows[2][-1] == "1 of 3"


@pytest.mark.usefixtures("undrawn")
def test_small_differences_are_told_by_seed_with_the_verdicts_digits(tmp_path: Path) -> None:
    text = markdown(tmp_path, race_of({"adamw": [6.0, 6.1, 6.2], "adan": [5.9999, 6.0998, 6.1999]}))
    gaps = [row[-1] for row in table(sections(text)["Final runs"], "Seed")]
    assert gaps == ["-0.00010", "-0.00020", "-0.00010", "-0.00013"]


@pytest.mark.usefixtures("undrawn")
def test_a_race_without_a_search_says_so(tmp_path: Path) -> None:
    assert "| Runs of the search    | none" in markdown(
        tmp_path, without_search(race_of({"adamw": ADAMW, "adan": ADAN}))
    )


@pytest.mark.usefixtures("undrawn")
def test_a_missing_run_is_a_dash_and_other_seeds_are_named(tmp_path: Path) -> None:
    race = race_of({"adamw": ADAMW, "adamw-2": ADAMW}, seeds={"adamw": (1, 2, 3), "adamw-2": (11, 12, 13)})
    race = dataclasses.replace(race, finals={
        "adamw": race.finals["adamw"][:2],
        "adamw-2": tuple(dataclasses.replace(run, seed=run.seed + 10) for run in race.finals["adamw-2"]),
    })  # fmt: skip
    text = markdown(tmp_path, race)
    assert [row[:3] for row in table(text, "Seed")] == [
        ["1, 11", "6.121", "6.121"], ["2, 12", "6.103", "6.103"], ["3, 13", "-", "6.098"], ["mean", "6.112", "6.107"],
    ]  # fmt: skip
    assert "adamw 1, 2, 3; adamw-2 11, 12, 13" in text and "races against itself" in text


def test_the_search_is_told_with_its_cost(full: Path) -> None:
    text = sections((full / "report.md").read_text())["Learning rates"]
    rows = table(text, "Entrant | Betas")
    assert len(rows) == 24
    assert ["adan", "0.9, 0.9, 0.999", "0.008", "0.02", "7.000", "6.600", "raced"] in rows
    assert ["adamw", "0.9, 0.98", "0.016", "0.01", "diverged", "", ""] in rows
    assert sum(row[-1] == "raced" for row in rows) == 3
    costs = {row[0]: row[1:] for row in table(text, "Entrant | Short")}
    assert costs["adamw"][:4] == ["10", "2", "4,200", "2.8"] and costs["adamw"][5:] == ["0.00025 to 0.016", "no"]
    assert costs["sgd"][5:] == ["0.25 to 4", "yes"]
    svg = (full / "learning_rates.svg").read_text()
    for words in ("adan, betas 0.98, 0.92, 0.99", "peak learning rate", "0.00025"):
        assert words in svg
    assert "20 % of the budget" in text and "run again with 40 %" in text and "diverged" in text


def test_what_a_reader_must_mind_stands_above(full: Path) -> None:
    values = json.loads((full / "report.json").read_text())
    assert values["notices"] == [
        "1 run failed and is left out (below).",
        "sgd diverged in its final run with seed 3.",
        "sgd raced with the lowest learning rate that was tried, 0.25: a lower one might be better. Give more with "
        "--lr.",
        "The searches were not equally dear: adamw 4,200 steps, adan 4,200 steps, sgd 2,400 steps.",
        "2 runs at a time: each was timed beside others, so that times are longer than of a run alone, and less "
        "certain.",
    ]
    assert (full / "report.md").read_text().count("\n> **") == 5
    assert "out of memory" in sections((full / "report.md").read_text())["Failed runs"]


def test_a_plain_race_has_nothing_to_mind() -> None:
    race = race_of({"adamw": ADAMW, "adan": ADAN})
    assert notices(race) == []
    searches = {}
    for number, name in enumerate(race.entrants, 1):
        runs: dict[str, Any] = {part: tuple(dataclasses.replace(run, steps=run.steps * number, seconds=60.0)
                            for run in getattr(SEARCHES[name], part)) for part in ("short", "longer")}  # fmt: skip
        searches[name] = dataclasses.replace(SEARCHES[name], **runs)
    race = dataclasses.replace(race, searches=searches)
    assert notices(race) == ["The searches were not equally dear: adamw 4,200 steps, adan 8,400 steps."]
    assert notices(dataclasses.replace(race, budget="hours:0.1")) == []  # equal times, whatever the steps


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"adamw": [6.1], "adan": [6.0]}, "One seed: the race says nothing about chance"),
        ({"adan": [6.0, 6.0, 6.0]}, "adan ends at the same loss with every seed"),
        ({"adan": [diverged(run_of("adan", 1, 6.0)), diverged(run_of("adan", 2, 6.0)), 6.0]},
         "adan diverged in its final run with seeds 1, 2."),
    ],
)  # fmt: skip
def test_doubts_about_the_runs(changes: dict[str, list[Any]], expected: str) -> None:
    assert any(text.startswith(expected) for text in notices(race_of({"adamw": ADAMW, "adan": ADAN} | changes)))


def test_the_highest_rate_of_its_own_betas_is_an_edge() -> None:
    """Other betas went higher."""
    search = SEARCHES["adan"]
    short = tuple(run for run in search.short
                  if run.settings.preset != search.chosen.preset or run.settings.learning_rate <= 8e-3)  # fmt: skip
    searches = {"adamw": SEARCHES["adamw"], "adan": dataclasses.replace(search, short=short, is_edge=True)}
    told = notices(race_of({"adamw": ADAMW, "adan": ADAN}, searches=searches))
    assert told[0].startswith("adan raced with the highest learning rate that was tried for its betas, 0.008")


def test_batch_sizes(full: Path) -> None:
    race = full_race()
    text = sections((full / "report.md").read_text())["Batch sizes"]
    rows = table(text, "Batch size | Steps")
    assert [row[:2] for row in rows] == [["32", "1,500"], ["128", "375"], ["512", "93"], ["2,048", "23"]]
    assert rows[3][4] == "1 of 3 diverged"
    gaps = batch_differences(race)
    assert batch_confidence(race) == pytest.approx(1 - 0.05 / 8) and "99.38 %" in text
    losses = [[run.loss for run in race.batches[name][512]] for name in ("adan", "adamw")]
    expected = t_interval([one - other for one, other in zip(*losses, strict=True)], 1 - 0.05 / 8)
    assert gaps["adan"][512] == expected and gaps["sgd"][2048] is None
    assert f"{expected.mean:+.3f} (" in text
    assert ["adan", "512", "0.9, 0.9, 0.999", "0.008", "0.02", "0.008, 0.032, 0.128"] in table(text, "Entrant")
    assert "lowest or highest that was tried: adamw at 128, 512, 2,048; adan" in text
    assert "batch size (sequences)" in (full / "batch_sizes.svg").read_text()


def test_published_curves_stand_beside_ours(full: Path) -> None:
    rows = table(sections((full / "report.md").read_text())["Beside the published curves"], "Share")
    assert [row[0] for row in rows] == ["10 %", "25 %", "50 %", "75 %", "100 %"]
    assert rows[4] == ["100 %", "6.107", "6.066", "6.728", "1.204", "1.192"]
    svg = (full / "published.svg").read_text()
    assert all(words in svg for words in ("here", "published", "paper, Adan", "adamw"))


@pytest.mark.usefixtures("undrawn")
def test_what_it_does_not_show(full: Path, tmp_path: Path) -> None:
    text = sections((full / "report.md").read_text())["What this race does not show"]
    for words in ("one text, one size and 1,500 steps", "which 3 values cannot show", "decays towards the end",
                  "2 runs at a time", "not the same as no difference"):  # fmt: skip
        assert words in text
    one = without_search(race_of({"adamw": [6.1], "adan": [6.0]}))
    assert "One seed: how far another would move the losses is not known." in markdown(tmp_path, one)


def test_every_run_can_be_repeated(full: Path) -> None:
    race, text = full_race(), (full / "report.md").read_text()
    commands = [line for line in text.splitlines() if line.startswith("python run_pretrain.py bert --recipe tiny")]
    runs = [*(run for runs in race.finals.values() for run in runs),
            *(run for search in race.searches.values() for run in (*search.short, *search.longer)),
            *(run for sizes in race.batches.values() for runs in sizes.values() for run in runs)]  # fmt: skip
    assert {command_of(run, "bert") for run in runs} <= set(commands)
    folders = [shlex.split(command)[-1] for command in commands]
    assert len(set(folders)) == len(set(commands)), "two runs in one folder"
    assert f"```bash\npython {race.command}\n```" in text
    given = dataclasses.replace(runs[0], command=("bert", "--output_dir", "my runs/one"))
    assert command_of(given, "bert") == "python run_pretrain.py bert --output_dir 'my runs/one'"


def test_the_report_for_programs(full: Path) -> None:
    race, values = full_race(), json.loads((full / "report.json").read_text())
    assert values["summary"] == values["verdict"]["sentence"]
    assert values["verdict"]["claims"] == {"adan": "better", "sgd": "worse"}
    for name, runs in race.finals.items():
        assert [
            RunResult.from_json({k: v for k, v in run.items() if k != "repeat"}) for run in values["finals"][name]
        ] == [*runs]
    adan = values["searches"]["adan"]
    assert (adan["cost_steps"], adan["is_edge"], len(adan["short"]), len(adan["longer"])) == (4200, False, 10, 2)
    assert adan["chosen"] == {"preset": "betas 0.9, 0.9, 0.999", "learning_rate": 0.008, "weight_decay": 0.02}
    assert values["finals"]["sgd"][2]["loss"] is None and values["finals"]["sgd"][2]["diverged"]
    assert values["batches"]["differences"]["adan"]["512"]["high"] < 0
    assert len(values["batches"]["searches"]["adan"]["512"]) == 3
    assert values["race"]["seeds"] == {name: [1, 2, 3] for name in ("adamw", "adan", "sgd")}
    assert values["race"]["command"] == race.command and values["environment"]["torch"] == "2.6"
    assert values["published"]["paper, Adan"][0] == [50_000, pytest.approx(race.published["paper, Adan"][0][1])]
    assert values["failures"] == list(race.failures)


def test_races_of_which_little_can_be_drawn(tmp_path: Path) -> None:
    lost = [diverged(run_of("adan", seed, 6.0)) for seed in (1, 2)]
    races = {
        "few": race_of({"adamw": [run_of("adamw", 1, 6.0, evaluations=2)], "adan": [6.1]}),
        "lost": race_of({"adamw": [6.0, 6.1], "adan": lost}),
        "none": race_of({"adamw": [diverged(run_of("adamw", 1, 6.0))], "adan": lost[:1]}),
    }
    texts = {name: markdown(tmp_path / name, without_search(race)) for name, race in races.items()}
    assert "There was no search" in texts["few"] and not (tmp_path / "few/learning_rates.svg").exists()
    assert (tmp_path / "few/curves_time.svg").exists()
    assert "Runs that diverged are not drawn: 2 of adan." in texts["lost"]
    assert "No final run came to its end." in texts["none"]


@pytest.mark.usefixtures("undrawn")
def test_races_with_little_in_them(tmp_path: Path) -> None:
    none = race_of({"adamw": [6.0], "adan": [6.0]}, finals={"adamw": (), "adan": ()})
    assert "No final run came to its end." in markdown(tmp_path / "none", none)
    assert "The verdict in figures" not in markdown(tmp_path / "alone", race_of({"adamw": ADAMW}))


def test_the_band_is_over_the_seeds() -> None:
    runs = [dataclasses.replace(run_of("adan", seed, last, steps=30, seconds=60.0 * seed), curve=tuple(
        Point(step, 2.0 * seed * step, loss) for step, loss in zip((10, 20, 30), (*losses, last), strict=True)
    )) for seed, (losses, last) in enumerate([((5.0, 4.0), 3.0), ((5.5, 4.2), 3.4)], 1)]  # fmt: skip
    band = seed_band([*runs, diverged(runs[0])])
    assert band is not None
    assert band.steps == (10, 20, 30) and band.seconds == (30.0, 60.0, 90.0)
    assert band.means == pytest.approx((5.25, 4.1, 3.2))
    assert (band.lows, band.highs) == ((5.0, 4.0, 3.0), (5.5, 4.2, 3.4))
    later = dataclasses.replace(runs[1], curve=(Point(15, 60.0, 5.0),), steps=25, seconds=100.0)
    band = seed_band([runs[0], later])
    assert band is not None
    assert band.steps == (20, 25) and band.means == pytest.approx(((4.0 + 4.2) / 2, (3.5 + 3.4) / 2))


@pytest.mark.parametrize(
    ("given", "expected"),
    [("steps:1500", "1,500 steps"), ("hours:0.5", "0.5 hours"), ("tokens:3e6", "3,000,000 tokens"), ("odd", "odd")],
)
def test_the_budget_in_words(given: str, expected: str) -> None:
    assert budget_text(race_of({"adamw": ADAMW}, budget=given)) == expected


def test_traces_are_drawn_with_bands_rings_and_crosses() -> None:
    points = [(1e-3, 7.0), (4e-3, 6.5), (1.6e-2, 6.9)]
    plain = Trace(points)
    full = Trace(points, [(6.9, 7.1), (6.4, 6.6), (6.8, 7.0)], (6.4e-2,), points[1], colour=1, dash=1)
    drawn = [trace_plot({"a": trace}, "rate", "loss", log_x=True) for trace in (plain, full)]
    for svg in drawn:
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg") and ">0.016<" in svg and svg.count(">a<") == 1
    assert "#0a7fc4" in drawn[0] and "#e06b00" in drawn[1] and drawn[1].count("<g ") > drawn[0].count("<g ")
    assert ">0.064<" in drawn[1] and ">0.064<" not in drawn[0]
    assert trace_plot({"a": full}, "rate", "loss", log_x=True) == drawn[1]
    linear = trace_plot({"a": Trace([(0, 1.0), (200_000, 2.0)])}, "step", "loss")
    assert ">200,000<" in linear and trace_plot({}, "step", "loss").startswith("<svg")
    sizes = trace_plot({"a": Trace([(2.0**k, 1.0) for k in range(22)])}, "size", "loss", log_x=True)
    shown = [text for text in ElementTree.fromstring(sizes).itertext() if text.replace(",", "").isdigit()]
    assert shown == ["1", "8", "64", "512", "4,096", "32,768", "262,144", "2,097,152"]  # of 22: where there is room
    assert ">0.01<" in trace_plot({"a": Trace([(0.01, 1.0)])}, "rate", "loss", log_x=True)
