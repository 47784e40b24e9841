"""The tables of a pretraining report: what the run cost, on what data, with which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nlp_adan.pretraining.peak_memory import DEVICE, HOST
from nlp_adan.pretraining.plan import GIB
from nlp_adan.pretraining.quantities import NOTHING, count, duration, with_unit
from nlp_adan.pretraining.record import RunRecord
from nlp_adan.reporting import Code, Column, Note, Paragraph, Section, Table
from nlp_adan.reporting.facts import facts_table

MAX_SOURCES = 12
# After those of model and data. Beside these a run has every option of the Trainer; resolved.yaml holds them all.
TRAINING_OPTIONS = (
    "optim", "optim_args", "learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "weight_decay",
    "max_grad_norm", "lr_scheduler_type", "warmup_steps", "warmup_on_top", "lr_drops", "lr_drop_factor", "max_steps",
    "max_hours", "num_train_epochs", "global_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps",
    "bf16", "fp16", "tf32", "activation_checkpointing", "torch_compile", "attn_implementation", "deepspeed", "seed",
    "data_seed",
)  # fmt: skip
SWITCHES = ("fp16", "tf32", "activation_checkpointing", "torch_compile", "warmup_on_top")  # told where they are on


def cost_section(record: RunRecord) -> Section:
    """Time, devices, work, and how often the run was taken up again."""
    devices = record.environment.get("gpus") or []
    kind = f"{record.world_size} x {devices[0]}" if devices else f"{record.world_size} x CPU"
    facts = [
        ("Trained time", duration(record.trained_seconds)),
        ("Ranks", kind if record.environment else NOTHING),
        ("Trained time x ranks", _device_hours(record)),
        ("Parameters", _parameters(record)),
        ("Steps", f"{record.step:,}"),
        ("Tokens", f"{count(record.tokens)} ({record.sequences_per_step:,} sequences of "
                   f"{record.sequence_length} a step)"),
        ("Matrix products, training", with_unit(record.flops, "FLOP")),
    ]  # fmt: skip
    if peaks := _peak_memory(record):
        facts.append(("Most memory, rank 0, last start", peaks))
    if record.starts:
        facts.append(("Starts", _starts(record)))
    elapsed = record.seconds_elapsed
    if elapsed is not None and record.trained_seconds is not None:
        facts.append(("First start to last log line", duration(elapsed)))
        rest = elapsed - record.trained_seconds
        if rest >= 1:  # the dates of the starts are whole seconds
            facts.append(("Not training", f"{duration(rest)}: start-ups, pauses between starts, probes, lost steps"))
    text = "Trained time is that of the training loop over all starts, with evaluations and checkpoints."
    return Section("Cost", (facts_table(facts), Paragraph(text)))


def _parameters(record: RunRecord) -> str:
    if record.num_parameters is None:
        return NOTHING
    of_layers = record.num_parameters_of_layers
    rest = "" if of_layers is None else f", {of_layers:,} of them outside of embedding and softmax"
    return f"{record.num_parameters:,}{rest}"


def _peak_memory(record: RunRecord) -> str:
    names = {DEVICE: "of the GPU, by torch", HOST: "of the host"}
    parts = [(record.metrics.get(figure), words) for figure, words in names.items()]
    return ", ".join(f"{value / GIB:,.2f} GiB {words}" for value, words in parts if value is not None)


def _device_hours(record: RunRecord) -> str:
    if record.trained_seconds is None:
        return NOTHING
    sizes = {int(start["world_size"]) for start in record.starts if "world_size" in start}
    if len(sizes) > 1:
        return f"{NOTHING} (the number of ranks changed: {', '.join(str(size) for size in sorted(sizes))})"
    return duration(record.trained_seconds * record.world_size)


def _starts(record: RunRecord) -> str:
    again = [f"{start['step']:,}" for start in record.starts[1:]]
    shown = ", ".join(again[:MAX_SOURCES]) + (
        f" and {len(again) - MAX_SOURCES} more" if len(again) > MAX_SOURCES else ""
    )
    return f"{len(record.starts)}, resumed after step {shown}" if again else "1, never interrupted"


def data_section(record: RunRecord) -> Section:
    """Sources, sizes and tokenizer, from the manifest of the prepared data."""
    manifest = record.manifest
    key = record.data_record.get("key", NOTHING)
    if manifest is None:
        words = "The prepared data are not at hand where the run had them; their manifest would tell more."
        facts = [("Data", str(record.settings.get("data") or "the built-in corpus")), ("Manifest key", str(key))]
        return Section("Data", (Note(words), facts_table(facts)))
    inputs = manifest.get("inputs", {})
    parts = parts_of(manifest)
    facts = [("Corpus", str(manifest.get("corpus_name", NOTHING)))]
    for part, name in (("train", "Training part"), ("valid", "Validation part"), ("test", "Test part")):
        if part != "test" or part in parts:
            facts.append((name, _part(parts.get(part, {}))))
    epochs = _epochs(record, manifest)
    facts += [
        ("Epochs trained", NOTHING if epochs is None else f"{epochs:,.{2 if epochs >= 1 else 4}f}"),
        ("Tokenizer", f"{record.kind.tokenizer(record)}, {manifest.get('vocab_size', NOTHING):,} entries"),
        ("Tokenizer SHA-256", str(inputs.get("tokenizer_sha256") or NOTHING)),
        ("Manifest key", str(key)),
    ]
    return Section("Data", (facts_table(facts), *_sources(inputs.get("corpus", {}).get("sources") or [])))


def parts_of(manifest: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a manifest says of each part of the text."""
    found: Mapping[str, Any] = manifest.get("parts", manifest)
    return found


def _part(part: Mapping[str, Any]) -> str:
    words = [
        f"{part[name]:,} {label.removesuffix('s') if part[name] == 1 else label}"
        for name, label in (("num_documents", "documents"), ("num_lines", "lines"), ("num_chars", "characters"),
                            ("num_tokens", "tokens"), ("num_blocks", "blocks"))
        if isinstance(part.get(name), int)
    ]  # fmt: skip
    return ", ".join(words) or NOTHING


def _epochs(record: RunRecord, manifest: Mapping[str, Any]) -> float | None:
    """By blocks where the data are cut into them, else by tokens."""
    part = parts_of(manifest).get("train", {})
    if blocks := part.get("num_blocks"):
        return float(record.step * record.sequences_per_step / blocks)
    return record.tokens / part["num_tokens"] if part.get("num_tokens") else None


def _sources(sources: Sequence[Any]) -> list[Table]:
    rows = [
        (
            str(source.get("path", source)),
            with_unit(source.get("num_bytes"), "B"),
            str(source.get("sha256", NOTHING))[:16],
        )
        if isinstance(source, Mapping)
        else (str(source), NOTHING, NOTHING)
        for source in sources[:MAX_SOURCES]
    ]
    if len(sources) > MAX_SOURCES:
        rows.append((f"and {len(sources) - MAX_SOURCES:,} more", NOTHING, NOTHING))
    columns = (Column("Source"), Column("Size", "right"), Column("SHA-256 begins"))
    return [Table(columns, tuple(rows))] if rows else []


def settings_section(record: RunRecord) -> Section:
    """The options that decide what is computed, and the command."""
    settings = record.settings
    left_out = {name for name in SWITCHES if not settings.get(name)}
    if settings.get("model_name_or_path") or settings.get("config_name"):
        left_out |= record.kind.sizes  # the named configuration's are in force
    if not settings.get("lr_drops"):
        left_out |= {"lr_drops", "lr_drop_factor"}
    if str(settings.get("optim")) == "adan":
        left_out |= {"adam_beta1", "adam_beta2"}
    if record.max_hours is not None or int(settings.get("max_steps") or -1) > 0:
        left_out.add("num_train_epochs")
    if int(settings.get("max_steps") or -1) < 1:
        left_out.add("max_steps")
    names = ("recipe", *record.kind.options, *TRAINING_OPTIONS)
    facts = [(name, str(settings[name])) for name in names if name not in left_out and settings.get(name) is not None]
    command = str(record.environment.get("command", ""))
    ranks = "one process" if record.world_size == 1 else f"each of {record.world_size} ranks"
    note = "The options that decide what is computed; resolved.yaml holds all, and is itself a recipe."
    shown = (Paragraph(f"The command of the last start, as {ranks} had it:"), Code(command, "bash")) if command else ()
    return Section("Settings", (facts_table(facts, ("Option", "Value")), Paragraph(note), *shown))
