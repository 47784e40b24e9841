"""What the reports and cards of one kind of model say differently from those of another: one object a kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nlp_adan.pretraining.quantities import plain, share
from nlp_adan.reporting import Section

if TYPE_CHECKING:
    from nlp_adan.pretraining.published import PublishedCurve
    from nlp_adan.pretraining.record import RunRecord


@dataclass(frozen=True)
class Figure:
    """A figure of eval.jsonl or metrics.json.

    Args:
        name: there.
        title: what readers call it, with its unit.
        head: the same in a narrow column.
        is_share: shown as per cent; otherwise as a number.
        digits: of a number, behind the point.
        guess: the name of the figure that guessing reaches; None: none is known.
        of_guess: what that figure says in terms of this one.
        is_expected: whether a table has a row for it even where a run has no value.
        hub_metric: what the Hugging Face hub calls it.
        part: of the text that it is of: for the hub, and in words.
    """

    name: str
    title: str
    head: str
    is_share: bool = False
    digits: int = 3
    guess: str | None = None
    of_guess: Callable[[float], float] = float
    is_expected: bool = True
    hub_metric: str = ""
    part: tuple[str, str] = ("held-out", "held-out documents")

    def text(self, value: float | None) -> str:
        """A value of it; a dash for None."""
        return share(value) if self.is_share else plain(value, self.digits)


@dataclass(frozen=True)
class Measure:
    """What the curves of a run show: a function of the loss in nats a token.

    Args:
        figure: of an evaluation; a run that has it is measured so.
        title: heads the section of the curves.
        axis: of a plot, with the unit.
        caption: of a table.
        digits: behind the point.
        from_nats: the measure of a loss; infinite where it is beyond a float.
        log_axis: whether equal ratios are equally far on a plot.
    """

    figure: str
    title: str
    axis: str
    caption: str
    digits: int
    from_nats: Callable[[float], float]
    log_axis: bool = False


@dataclass(frozen=True)
class CardTerms:
    """What a model card says of a kind of model.

    Args:
        pipeline_tag: of the hub, the task.
        tag: of the hub, the kind of model.
        what: the model in a few words, at the beginning of a sentence.
        purpose: whole sentences: what the model is for.
        use: how to use the model, in Markdown; its programs run in the model's folder.
        figures: the results.
        where: on what text the figures are.
        guessing: a sentence about what the figures stand beside.
        facts: further rows of the table of training, after that of the batch.
        limits: whole sentences.
    """

    pipeline_tag: str
    tag: str
    what: str
    purpose: str
    use: str
    figures: tuple[Figure, ...]
    where: Callable[[RunRecord], str]
    guessing: str
    facts: Callable[[RunRecord], Mapping[str, str]]
    limits: Callable[[RunRecord], Sequence[str]]


def _nothing(record: RunRecord) -> Mapping[str, Any]:
    return {}


def _no_sections(record: RunRecord) -> Sequence[Section]:
    return ()


@dataclass(frozen=True)
class RunKind:
    """A kind of pretraining run, for its report and its model card.

    Args:
        name: of its models, in the plural, as in an error's text.
        marks: options that every run of the kind has, and others have not.
        length_option: the one that says how many tokens a sequence has.
        mean_length: by the settings, how many it has on average.
        loss: the figure of an evaluation that is its loss in nats a token.
        measures: the first is that of a run whose evaluations have none of their figures.
        loss_caption: what the curves of training and validation are means of.
        columns: further columns of the table of evaluations, those of figures that are expected or found.
        evaluations_caption: of that table.
        known: the last figures in words, the beginning of the verdict.
        flops_note: which matrix products the FLOP/s count, the end of a sentence.
        layers_prefix: of the names of the parameters outside of embedding and softmax; None: they are not told apart.
        tokenizer: what it is, in words.
        options: those of model and data that decide what is computed, in the order in which a report lists them.
        sizes: of these, what is not in force where a configuration is named.
        published: the published run that a recipe, given by its name, repeats; None for any other.
        sections: of the report, after the curves.
        data: of report.json, likewise.
        card: the model's.
    """

    name: str
    marks: tuple[str, ...]
    length_option: str
    mean_length: Callable[[Mapping[str, Any]], float]
    loss: str
    measures: tuple[Measure, ...]
    loss_caption: str
    columns: tuple[Figure, ...]
    evaluations_caption: str
    known: Callable[[RunRecord], str]
    flops_note: str
    layers_prefix: str | None
    tokenizer: Callable[[RunRecord], str]
    options: tuple[str, ...]
    sizes: frozenset[str]
    published: Callable[[str], PublishedCurve | None]
    card: CardTerms
    sections: Callable[[RunRecord], Sequence[Section]] = _no_sections
    data: Callable[[RunRecord], Mapping[str, Any]] = _nothing
