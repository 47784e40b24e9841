"""What reports and cards say of a masked language model's run."""

from __future__ import annotations

from bert.probe_report import probes, probes_section
from bert.published import published_curve
from nlp_adan.pretraining.quantities import share
from nlp_adan.pretraining.record import RunRecord
from nlp_adan.pretraining.run_kind import CardTerms, Figure, Measure, RunKind

LOSS = Figure(
    "eval_mlm_loss", "Cross-entropy, nats a masked token", "Validation loss", guess="eval_unigram_cross_entropy",
    hub_metric="loss",
)  # fmt: skip
TOP1 = Figure("eval_top1_accuracy", "Top-1 accuracy", "Top-1", is_share=True, hub_metric="accuracy")
TOP5 = Figure(
    "eval_top5_accuracy", "Top-5 accuracy", "Top-5", is_share=True, guess="eval_five_commonest_accuracy",
    hub_metric="top_5_accuracy",
)  # fmt: skip
SIZES = (
    "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "initializer_range",
    "dropout",
)  # fmt: skip
USE = """\
```python
from transformers import pipeline

fill_mask = pipeline("fill-mask", model=".")  # this folder, or the model's name on the hub
for answer in fill_mask(f"This is an {fill_mask.tokenizer.mask_token} of it."):
    print(answer["token_str"], answer["score"])
```"""


def _known(record: RunRecord) -> str:
    last = record.last_evaluation
    text = f"Validation loss {last['eval_mlm_loss']:.3f} nats a masked token"
    if last.get("eval_unigram_cross_entropy") is not None:
        text += f" (unigram cross-entropy {last['eval_unigram_cross_entropy']:.3f})"
    if last.get("eval_top5_accuracy") is not None:
        text += f", top-5 accuracy {share(last['eval_top5_accuracy'])}"
        if last.get("eval_five_commonest_accuracy") is not None:
            text += f" (always the five commonest tokens {share(last['eval_five_commonest_accuracy'])})"
    return text


def _tokenizer(record: RunRecord) -> str:
    """Where the tokenizer is from, in words."""
    sample = (record.manifest or {}).get("tokenizer_sample")
    named = record.settings.get("tokenizer") or record.settings.get("model_name_or_path")
    if sample is None:
        return str(named or "not known")
    kind = {"bpe": "byte-level BPE", "wordpiece": "WordPiece"}.get(str(sample.get("kind")), str(sample.get("kind")))
    return f"{kind}, trained on {sample.get('corpus_name', 'the text')}"


def _where(record: RunRecord) -> str:
    masked = record.metrics.get("eval_masked_tokens")
    return "held-out documents of the same corpus" + ("" if masked is None else f", {masked:,} masked tokens")


def _limits(record: RunRecord) -> tuple[str, ...]:
    return (
        f"It was trained on blocks of {record.settings['block_size']} tokens.",
        "Its figures are of the text it was trained on, and of one seed. They do not compare with those of a model "
        "with another vocabulary or another text.",
        "Nothing here says how it does on a task: fine-tune and measure, as with `python -m glue_eval`.",
    )


MASKED_LM = RunKind(
    name="masked language models",
    marks=("mask_probability", "block_size"),
    length_option="block_size",
    mean_length=lambda settings: settings["block_size"],
    loss="eval_mlm_loss",
    measures=(
        Measure(
            "eval_mlm_loss", "Loss", "masked LM loss (nats a token)", "Loss, nats a masked token", 3, from_nats=float
        ),
    ),
    loss_caption="Training: a mean over the steps since the line before, with dropout if there is any; "
    "validation: without.",
    columns=(TOP1, TOP5),
    evaluations_caption="Evaluations, on held-out documents",
    known=_known,
    flops_note="three times those of the forward pass, the head on the masked positions only",
    layers_prefix=None,
    tokenizer=_tokenizer,
    options=("model_name_or_path", "config_name", *SIZES, "block_size", "mask_probability"),
    sizes=frozenset(SIZES),
    published=published_curve,
    sections=lambda record: [probes_section(record)] if probes(record) else [],
    data=lambda record: {"probes": [dict(line) for line in probes(record)]},
    card=CardTerms(
        pipeline_tag="fill-mask",
        tag="masked-lm",
        what="A masked language model",
        purpose="It fills masked words, and is meant to be fine-tuned.",
        use=USE,
        figures=(LOSS, TOP1, TOP5),
        where=_where,
        guessing="Guessing is by the frequencies of the training text: its cross-entropy, and always the five "
        "commonest tokens.",
        facts=lambda record: {"masked": f"{share(record.settings['mask_probability'])} of the tokens"},
        limits=_limits,
    ),
)
