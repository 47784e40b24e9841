"""What reports and cards say of a language model's run, a Transformer-XL's or an LSTM's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from nlp_adan.pretraining.quantities import NOTHING
from nlp_adan.pretraining.record import RunRecord
from nlp_adan.pretraining.run_kind import CardTerms, Figure, Measure, RunKind
from nlp_adan.reporting import Column, Note, Section, Table

from .flops import mean_segment_length
from .published import published_curve, published_results

MAX_NATS = 700.0  # beyond, e^nats is more than a float holds


def perplexity(nats: float) -> float:
    """Of a loss in nats a token."""
    return math.exp(nats) if nats < MAX_NATS else math.inf


def bits(nats: float) -> float:
    """Of a loss in nats, in bits."""
    return nats / math.log(2)


PERPLEXITY = Measure(
    "eval_perplexity", "Perplexity", "perplexity", "Perplexity", 2, from_nats=perplexity, log_axis=True
)
BITS = Measure(
    "eval_bits_per_character", "Bits per character", "bits per character", "Bits per character", 3, from_nats=bits
)
VALIDATION, TEST = ("validation", "validation part"), ("test", "test part")


def _figures(prefix: str, part: tuple[str, str]) -> tuple[Figure, ...]:
    """What a card shows of a part of the text; of perplexity and bits the one that the run has."""
    unigram = f"{prefix}_unigram_cross_entropy"
    named = part[1]
    return (
        Figure(
            f"{prefix}_perplexity", f"Perplexity, {named}", "Perplexity", digits=2, guess=unigram,
            of_guess=perplexity, is_expected=False, hub_metric="perplexity", part=part,
        ),
        Figure(
            f"{prefix}_bits_per_character", f"Bits per character, {named}", "Bits per character", guess=unigram,
            of_guess=bits, is_expected=False, hub_metric="bits_per_character", part=part,
        ),
        Figure(
            f"{prefix}_loss", f"Cross-entropy, nats a token, {named}", "Loss", guess=unigram, is_expected=False,
            hub_metric="loss", part=part,
        ),
    )  # fmt: skip


TRANSFORMER_XL_SIZES = (
    "d_model", "n_layer", "n_head", "d_head", "d_inner", "d_embed", "cutoffs", "div_val", "tie_weight", "tie_projs",
    "pre_lnorm", "init_std", "proj_init_std",
)  # fmt: skip
LSTM_SIZES = ("embedding_size", "hidden_size", "num_layers")
OTHER_OPTIONS = (
    "tgt_len", "random_lengths", "mem_len", "clamp_len", "same_length", "dropout", "dropatt", "embedding_dropout",
    "input_dropout", "hidden_dropout", "output_dropout", "weight_dropout", "alpha", "beta", "unit", "lower_case",
    "max_vocab", "min_count", "tokenizer", "max_valid_tokens",
)  # fmt: skip
USE = """\
```python
import torch
import transformer_xl  # of nlp_adan: makes the model known to transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".").eval()  # this folder, or the model's name on the hub
tokenizer = AutoTokenizer.from_pretrained(".")
ids, mems = torch.tensor([tokenizer("the").input_ids]), None
for _ in range(10):
    with torch.no_grad():
        output = model(ids, mems=mems)  # log-probabilities, and the memory to go on with
    ids, mems = output.logits[:, -1:].argmax(-1), output.mems
    print(tokenizer.decode(ids[0]))
```

Labels are not shifted inside: `labels[:, t]` is the target of position `t`.

```bash
python -m transformer_xl generate --model . --prompt "the" --max_new_tokens 40
python -m transformer_xl evaluate --model . --data FILE
```"""


def _mean_length(settings: Mapping[str, Any]) -> float:
    return mean_segment_length(int(settings["tgt_len"]), bool(settings.get("random_lengths")))


def _known(record: RunRecord) -> str:
    last, measure = record.last_evaluation, record.measure
    name = measure.title.lower()

    def value(nats: float) -> str:
        return f"{measure.from_nats(nats):,.{measure.digits}f}"

    text = f"Validation {name} {value(last['eval_loss'])}"
    if last.get("eval_unigram_cross_entropy") is not None:
        text += f" (by the tokens' frequencies {value(last['eval_unigram_cross_entropy'])})"
    if last.get("test_loss") is not None:
        text += f", test {name} {value(last['test_loss'])}"
    if record.finished and int(last.get("step", record.step)) < record.step:
        text += f", of the weights after step {last['step']:,}"
    return text


def _tokenizer(record: RunRecord) -> str:
    if record.settings.get("tokenizer"):
        return str(record.settings["tokenizer"])
    rules = (record.manifest or {}).get("rules", {})
    unit = {"word": "words", "character": "characters", "byte": "bytes"}.get(str(rules.get("unit")))
    if unit is None:
        return "not known"
    lower = " in lower case" if rules.get("lower_case") else ""
    return f"{unit}{lower}" if unit == "bytes" else f"{unit}{lower}, counted on the training part"


def _results_section(record: RunRecord) -> list[Section]:
    """The run among the published test figures of its text and model."""
    results, note = published_results(record.recipe)
    if not results:
        return []
    here = record.metrics.get("test_perplexity")
    names = ("Run", "Steps", "Learning rate", "Warm-up steps", "Test perplexity")
    rate, warm_up = record.settings.get("learning_rate"), record.settings.get("warmup_steps")
    rows: list[tuple[str, ...]] = [
        ("this run", f"{record.step:,}", _short(rate), _short(warm_up), NOTHING if here is None else f"{here:,.2f}")
    ]
    for result in results:
        cells = (result.steps and f"{int(result.steps):,}", _short(result.learning_rate), result.warmup_steps)
        rows.append((
            f"published, {result.optimizer}", *(cell or NOTHING for cell in cells), f"{result.test_perplexity:.2f}"
        ))  # fmt: skip
    columns = (Column(names[0]), *(Column(name, "right") for name in names[1:]))
    table = Table(columns, tuple(rows), "Perplexity of the test part")
    return [Section("Published test figures", (table, Note(note)))]


def _short(number: Any) -> str:
    return NOTHING if number in (None, "") else f"{float(number):g}"


def _where(record: RunRecord) -> str:
    metrics = record.metrics

    def part(name: str, prefix: str) -> str:
        count = metrics.get(f"{prefix}_num_tokens")
        return f"the {name} part" + ("" if count is None else f" ({count:,} tokens)")

    if "test_loss" not in metrics:
        return part("validation", "eval")
    most = record.settings.get("max_valid_tokens")
    chosen = "which" if most is None or most >= metrics.get("eval_num_tokens", 0) else f"whose first {most:,} tokens"
    return f"{part('validation', 'eval')}, by {chosen} the weights were chosen, and {part('test', 'test')}, read once"


def _facts(record: RunRecord) -> dict[str, str]:
    if record.settings.get("mem_len") is not None:
        return {"memory": f"{record.settings['mem_len']} positions in each layer"}
    around = "of random length around this one, " if record.settings.get("random_lengths") else ""
    return {"memory": f"{around}the state carried from one to the next"}


def _limits(record: RunRecord) -> Sequence[str]:
    memory = record.settings.get("mem_len")
    length = f"It was trained on segments of {record.settings['tgt_len']} tokens"
    return (
        f"{length}, with a memory of {memory} positions in each layer." if memory is not None else f"{length}.",
        "Its figures are of the text it was trained on, and of one seed. They are means over the tokens of its own "
        "vocabulary: they do not compare with those of a model with another vocabulary or another text.",
        "It goes on with text as it stood in its training data; it follows no instructions.",
    )


LANGUAGE_MODEL = RunKind(
    name="language models with a memory",
    marks=("tgt_len",),
    length_option="tgt_len",
    mean_length=_mean_length,
    loss="eval_loss",
    measures=(PERPLEXITY, BITS),
    loss_caption="Training: of the mean loss over the steps since the line before, with dropout if there is any, and "
    "an LSTM's with the penalties on its activations; validation: without.",
    columns=tuple(
        Figure(measure.figure, measure.title, measure.title, digits=measure.digits, is_expected=False)
        for measure in (PERPLEXITY, BITS)
    ),
    evaluations_caption="Evaluations, on the validation part or its first --max_valid_tokens; losses in nats a token",
    known=_known,
    flops_note="forward and backward, masked attention scores included, of an adaptive softmax's tails what the "
    "training part's tokens need",
    layers_prefix="layers.",
    tokenizer=_tokenizer,
    options=("model_name_or_path", *TRANSFORMER_XL_SIZES, *LSTM_SIZES, *OTHER_OPTIONS),
    sizes=frozenset((*TRANSFORMER_XL_SIZES, *LSTM_SIZES)),
    published=published_curve,
    sections=_results_section,
    card=CardTerms(
        pipeline_tag="text-generation",
        tag="causal-lm",
        what="A language model with a memory",
        purpose="It gives the probability of a text, token by token, and goes on with one.",
        use=USE,
        figures=(*_figures("eval", VALIDATION), *_figures("test", TEST)),
        where=_where,
        guessing="Guessing is by the frequencies of the tokens in the training part.",
        facts=_facts,
        limits=_limits,
    ),
)
