"""The model card of a pretrained model: README.md in its folder, in the form that the Hugging Face hub shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from nlp_adan.errors import UserError
from nlp_adan.pretraining.facts import parts_of
from nlp_adan.pretraining.quantities import count, duration
from nlp_adan.pretraining.record import RunRecord, read_run
from nlp_adan.pretraining.run_kind import Figure, RunKind
from nlp_adan.storage import write_text
from nlp_adan.training.run_folder import RunFolder

CARD = "README.md"


def write_model_card(run: RunFolder, kind: RunKind, manifest: Mapping[str, Any] | None = None) -> Path:
    """Write the card of a finished run's model; the report beside it has the details.

    Args:
        run: the folder of a pretraining run that is finished.
        kind: of the run.
        manifest: of its prepared data; None: looked for where the run says they are.

    Returns:
        The card's path.

    Raises: UserError where the folder holds no finished pretraining run.
    """
    record = read_run(run, kind, manifest)
    if not record.finished or not (run.path / "config.json").is_file():
        raise UserError(f"{str(run.path)!r} holds no finished model yet: finish the run with `--resume auto`")
    card = ModelCard(f"---\n{_front_matter(record).to_yaml()}\n---\n\n{_text(record)}")
    write_text(run.path / CARD, str(card))
    return run.path / CARD


def _front_matter(record: RunRecord) -> ModelCardData:
    terms = record.kind.card
    results = [
        EvalResult(
            task_type=terms.pipeline_tag,
            dataset_type=figure.part[0],
            dataset_name=f"{corpus_name(record)}, {figure.part[1]}",
            metric_type=figure.hub_metric,
            metric_name=figure.title,
            metric_value=round(record.metrics[figure.name], 4),
        )
        for figure in terms.figures
        if record.metrics.get(figure.name) is not None
    ]
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=terms.pipeline_tag,
        tags=[terms.tag, _architecture(record)["model_type"], str(record.settings.get("optim")), "nlp_adan"],
        base_model=_base_model(record),
        model_name=record.folder.absolute().name,
        eval_results=results or None,
    )


def _text(record: RunRecord) -> str:
    terms = record.kind.card
    size = "" if record.num_parameters is None else f" of {count(record.num_parameters)} parameters"
    parts = [
        f"# {record.folder.absolute().name}",
        f"{terms.what} ({_architecture(record)['model_type']}){size}, {_origin(record)} on "
        f"{corpus_name(record)} with {_optimizer(record)} by nlp_adan. {terms.purpose} "
        "`report.md` in this folder has curves, cost, settings and environment.",
        f"## Use\n\n{terms.use}",
        f"## Results\n\n{_results(record)}",
        f"## Training\n\n{_training(record)}",
        f"## Data\n\n{_data(record)}",
        f"## Limitations\n\n{_limitations(record)}",
        "## Licence\n\nNone is declared. Who publishes the model chooses one that the licences of its training text "
        "allow, and adds it as `license:` at the head of this file.",
    ]
    return "\n\n".join(parts) + "\n"


def _architecture(record: RunRecord) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((record.folder / "config.json").read_text(encoding="utf-8"))
    return config


def corpus_name(record: RunRecord) -> str:
    """What the training text is called."""
    if record.manifest is not None and record.manifest.get("corpus_name"):
        return str(record.manifest["corpus_name"])
    return str(record.settings.get("data") or "the built-in corpus")


def _origin(record: RunRecord) -> str:
    begun_from = record.settings.get("model_name_or_path")
    return "pretrained from scratch" if begun_from is None else f"pretrained further, from the weights of {begun_from},"


def _base_model(record: RunRecord) -> str | None:
    """The hub's name of the model that the run went on from; a folder's path says nothing there."""
    begun_from = record.settings.get("model_name_or_path")
    return None if begun_from is None or Path(begun_from).exists() else str(begun_from)


def _optimizer(record: RunRecord) -> str:
    name = str(record.settings.get("optim"))
    return {"adan": "Adan", "adamw_torch": "AdamW", "adamw_torch_fused": "AdamW", "sgd": "SGD"}.get(name, name)


def _results(record: RunRecord) -> str:
    terms, metrics = record.kind.card, record.metrics
    figures = [figure for figure in terms.figures if figure.is_expected or metrics.get(figure.name) is not None]

    def guess(figure: Figure) -> str:
        value = None if figure.guess is None else metrics.get(figure.guess)
        return figure.text(None if value is None else figure.of_guess(value))

    rows = "\n".join(
        f"| {figure.title} | {figure.text(metrics.get(figure.name))} | {guess(figure)} |" for figure in figures
    )
    return f"On {terms.where(record)}; one seed. {terms.guessing}\n\n| | model | guessing |\n|---|---:|---:|\n{rows}"


def _training(record: RunRecord) -> str:
    settings = record.settings
    devices = record.environment.get("gpus") or ["CPU"]
    git = record.environment.get("git") or {}
    facts = {
        "recipe": record.recipe,
        "steps": f"{record.step:,}",
        "tokens": f"{count(record.tokens)}, repetitions included",
        "batch": f"{record.sequences_per_step:,} sequences of {record.sequence_length} tokens",
        **record.kind.card.facts(record),
        "optimizer": f"{_optimizer(record)} {settings.get('optim_args') or ''}".strip(),
        "learning rate": f"{settings.get('learning_rate'):g}, {settings.get('lr_scheduler_type')}",
        "weight decay": f"{settings.get('weight_decay'):g}",
        "trained time": f"{duration(record.trained_seconds)} on {record.world_size} x {devices[0]}",
        "software": ", ".join(
            f"{name} {version}"
            for name, version in (record.environment.get("packages") or {}).items()
            if version and name in ("torch", "transformers", "deepspeed")
        ),
        "nlp_adan": f"commit {git['commit']}{', modified' if git.get('modified') else ''}" if git else "",
    }
    return "| | |\n|---|---|\n" + "\n".join(f"| {name} | {_cell(text)} |" for name, text in facts.items() if text)


def _data(record: RunRecord) -> str:
    if record.manifest is None:
        return f"{corpus_name(record)}; the prepared data were not at hand when this card was written."
    train = parts_of(record.manifest).get("train", {})
    labels = {"num_documents": "documents", "num_lines": "lines", "num_chars": "characters", "num_tokens": "tokens"}
    sizes = ", ".join(f"{count(train[name])} {label}" for name, label in labels.items() if name in train)
    tokenizer = record.kind.tokenizer(record)
    return (
        f"{corpus_name(record)}: {sizes} in the training part. Tokenizer: {tokenizer}, "
        f"{record.manifest.get('vocab_size', 0):,} entries. Key of the prepared data: "
        f"`{record.data_record.get('key')}`."
    )


def _limitations(record: RunRecord) -> str:
    limits = (
        f"It knows what {corpus_name(record)} says, with its errors and its prejudices; neither was examined.",
        *record.kind.card.limits(record),
    )
    return "\n".join(f"- {limit}" for limit in limits)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
