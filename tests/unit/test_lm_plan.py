"""`run_pretrain.py transformer_xl ... --dry_run` and `lstm ... --dry_run`: the plan, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from nlp_adan.errors import UserError
from nlp_adan.pretraining.plan import GIB, Plan, format_plan
from transformer_xl.costs import ASSUMED_MFU
from transformer_xl.data_options import StreamOptions
from transformer_xl.dry_run import plan_of_run
from transformer_xl.flops import training_flops_per_segment
from transformer_xl.lstm import AWDLSTMForCausalLM
from transformer_xl.lstm_configuration import AWDLSTMConfig
from transformer_xl.options import parse_options
from transformer_xl.prepare import prepare_stream
from transformer_xl.stream import StreamSegments

SMALL = ["--d_model", "16", "--n_layer", "2", "--n_head", "2", "--d_inner", "32", "--tgt_len", "8", "--mem_len", "8"]


def plan(family: str, folder: Path, *words: str) -> Plan:
    options = parse_options(family, [*words, "--dry_run", "--output_dir", str(folder / "run")])
    found = plan_of_run(options, options.plan)
    assert not (folder / "run").exists()
    return found


def test_the_papers_run(tmp_path: Path) -> None:
    found = plan("transformer_xl", tmp_path, "--recipe", "wt103-base", "--plan_ranks", "4", "--plan_device",
                 "NVIDIA A100-SXM4-40GB", "--plan_memory_gib", "40")  # fmt: skip
    text = format_plan(found)
    assert "151,107,538 parameters (41,066,400 outside of embedding and softmax), adan" in text
    assert "267,735, the words of WikiText-103: assumed" in text and "60 sequences a step = 4 ranks x 15" in text
    assert "200,000 steps = 1.8 G tokens" in text and f"{100 * ASSUMED_MFU:.0f} % of the peak" in text
    assert "matrix products, forward and backward" in text and found.recommended == "none"
    assert (found.global_batch_size, found.micro_batch_size, found.tokens_per_step) == (60, 15, 9000)
    alone = plan("transformer_xl", tmp_path, "--recipe", "wt103-base")
    assert alone.flops_per_step < found.flops_per_step  # the positions are projected once for 60 streams, not for 15


@pytest.mark.parametrize(("recipe", "total"), [("ptb-1layer", "5,293,200"), ("ptb-2layer-sgd", "13,632,400"),
                                               ("ptb-3layer", "24,221,600")])  # fmt: skip
def test_the_treebanks_models(recipe: str, total: str, tmp_path: Path) -> None:
    found = plan("lstm", tmp_path, "--recipe", recipe, "--plan_device", "NVIDIA L4", "--flops_per_second", "1e12")
    assert f"awd_lstm, {total} parameters" in format_plan(found)
    assert "10,000, the words of the Penn Treebank: assumed" in format_plan(found)
    assert "20 at a time x 1; x 68.25 = 1,365 tokens" in format_plan(found)  # 0.95 x 70 + 0.05 x 35
    layers = int(recipe[4])
    work = training_flops_per_segment(AWDLSTMConfig(vocab_size=10_000, num_layers=layers), 68.25)
    assert found.flops_per_step == pytest.approx(20 * work)
    unknown = plan("lstm", tmp_path, "--recipe", recipe, "--plan_device", "NVIDIA L4")
    assert unknown.hours is None and "no rate is assumed for awd_lstm" in format_plan(unknown)


def test_every_option_reaches_the_plan(tmp_path: Path) -> None:
    words = ["--max_vocab", "500", "--global_batch_size", "12", "--per_device_train_batch_size", "3", "--max_steps",
             "100", "--optim", "adamw_torch", "--optim_args", "", "--plan_ranks", "2"]  # fmt: skip
    found = plan("transformer_xl", tmp_path, *SMALL, "--cutoffs", "100", *words)
    assert (found.global_batch_size, found.micro_batch_size, found.num_steps) == (12, 3, 100)
    assert found.workload.optim == "adamw_torch" and found.workload.sequences == "segments"
    assert "500 at most (--max_vocab)" in format_plan(found) and "x 8 = 96 tokens" in format_plan(found)
    assert found.state_bytes["none"].device_bytes == found.num_parameters * (8 + 8 + 4)  # float32, two ranks
    longer = plan("transformer_xl", tmp_path, *SMALL, "--cutoffs", "100", *words, "--mem_len", "16")
    assert longer.flops_per_step > found.flops_per_step
    assert longer.costs.activation_bytes_per_sequence > found.costs.activation_bytes_per_sequence
    kept = plan("transformer_xl", tmp_path, *SMALL, "--cutoffs", "100", *words, "--activation_checkpointing", "true")
    assert kept.costs.activation_bytes_per_sequence < found.costs.activation_bytes_per_sequence
    short = plan("transformer_xl", tmp_path, "--recipe", "wt103-base", "--plan_memory_gib", "0.1")
    assert "not one sequence fits: give `--activation_checkpointing true`, or a smaller --tgt_len" in format_plan(short)


def test_a_prepared_stream_is_planned_with(tmp_path: Path) -> None:
    """Its vocabulary, its passes, and the share of its tokens in each cluster."""
    (tmp_path / "text.txt").write_text("".join(f"line {n % 7} word{n % 40} ends\n" for n in range(900)), "utf-8")
    stream = prepare_stream(StreamOptions(data=str(tmp_path / "text.txt")), tmp_path / "stream")
    words = ["--data", str(tmp_path / "stream"), "--global_batch_size", "4", "--max_steps", "-1", "--num_train_epochs",
             "3"]  # fmt: skip
    found = plan("transformer_xl", tmp_path, *SMALL, *words, "--cutoffs", "10")
    segments = StreamSegments(stream.train, 4, 8)
    assert found.num_steps == 3 * segments.num_segments
    assert f"3 epochs of {segments.num_samples:,} segments" in format_plan(found)
    assert f"{stream.vocab_size}, those of {tmp_path / 'stream'}" in format_plan(found)
    counted = 1 - stream.train_counts[:10].sum() / stream.train_counts.sum()
    without_tail = plan("transformer_xl", tmp_path, *SMALL, *words, "--cutoffs", str(stream.vocab_size - 1))
    of_tail = 3 * 4 * 8 * 2 * 16 * counted * (stream.vocab_size - 10)
    of_head = 3 * 4 * 8 * 2 * 16 * 11
    whole = 3 * 4 * 8 * 2 * 16 * (stream.vocab_size + stream.train_counts[-1] / stream.train_counts.sum())
    assert found.flops_per_step - of_tail - of_head == pytest.approx(without_tail.flops_per_step - whole)


def test_a_named_models_vocabulary_is_planned_with(tmp_path: Path) -> None:
    AWDLSTMForCausalLM(AWDLSTMConfig(vocab_size=37, embedding_size=8, hidden_size=8, num_layers=2)).save_pretrained(
        tmp_path / "model"
    )
    found = plan("lstm", tmp_path, "--model_name_or_path", str(tmp_path / "model"), "--max_vocab", "50")
    assert "37, those of --model_name_or_path" in format_plan(found)
    assert found.num_parameters == 37 * (8 + 1) + 2 * (2 * 4 * 8 * 8 + 2 * 4 * 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--model_name_or_path: no model configuration"):
        plan("lstm", tmp_path, "--model_name_or_path", str(tmp_path / "empty"))


def test_what_a_plan_cannot_know(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"how many words the vocabulary has .* give `--max_vocab N`, or as --data"):
        plan("transformer_xl", tmp_path, "--recipe", str(no_vocabulary(tmp_path)))
    with pytest.raises(UserError, match="no/such"):
        plan("transformer_xl", tmp_path, "--recipe", "wt103-base", "--data", str(tmp_path / "no/such.txt"))
    with pytest.raises(UserError, match="choose a multiple of 7"):
        plan("transformer_xl", tmp_path, "--recipe", "wt103-base", "--plan_ranks", "7")
    with pytest.raises(UserError, match="--cutoffs: 5000 leaves no token"):
        plan("transformer_xl", tmp_path, *SMALL, "--cutoffs", "5000", "--max_vocab", "300")
    assert "256, bytes" in format_plan(plan("transformer_xl", tmp_path, "--recipe", "enwik8-base"))


def save_tokenizer(folder: Path, **special: str) -> str:
    """One that is not from here, of five words."""
    backend = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "a": 2, "b": 3, "c": 4}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", **special).save_pretrained(str(folder))
    return str(folder)


def test_a_plan_refuses_the_tokens_that_the_run_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the same check: what the plan says, preparing says too."""
    monkeypatch.setenv("NLP_ADAN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("a b c\n" * 400)
    good = save_tokenizer(tmp_path / "good", eos_token="</s>")
    endless = save_tokenizer(tmp_path / "endless")
    data = ["--recipe", str(no_vocabulary(tmp_path)), "--data", str(tmp_path / "text.txt")]
    both = tmp_path / "both.yaml"
    both.write_text(f"tokenizer: {good}\nmax_vocab: 300\n")
    cases = [
        (["--recipe", str(both)], "--max_vocab 300: --tokenizer has a vocabulary"),
        (["--tokenizer", endless], "endless' has no token that ends a document"),
        (["--tokenizer", str(tmp_path)], "holds no tokenizer"),
        (["--unit", "byte", "--min_count", "2"], "--min_count 2: a byte is a byte"),
        (["--max_vocab", "1"], "--max_vocab 1: choose 2 or more"),
        (["--valid_fraction", "1.5", "--max_vocab", "9"], "--valid_fraction 1.5 is impossible"),
    ]
    for words, told in cases:
        with pytest.raises(UserError, match=told) as planned:
            plan("transformer_xl", tmp_path, *SMALL, *data, *words)
        with pytest.raises(UserError) as prepared:
            prepare_stream(parse_options("transformer_xl", [*data, *words, "--output_dir", "runs/never"]).data)
        assert str(planned.value) == str(prepared.value)
    found = plan("transformer_xl", tmp_path, *SMALL, *data, "--tokenizer", good)
    assert "5, those of --tokenizer" in format_plan(found)


def test_a_plan_refuses_another_vocabulary_than_the_models(tmp_path: Path) -> None:
    """Of as many words."""
    model = AWDLSTMConfig(vocab_size=5, embedding_size=8, hidden_size=8, num_layers=1)
    AWDLSTMForCausalLM(model).save_pretrained(tmp_path / "model")
    own = save_tokenizer(tmp_path / "model", eos_token="</s>")
    words = ["--recipe", str(no_vocabulary(tmp_path)), "--model_name_or_path", own]
    assert "5, those of --tokenizer" in format_plan(plan("lstm", tmp_path, *words, "--tokenizer", own))
    other = save_tokenizer(tmp_path / "other", eos_token="c")
    with pytest.raises(UserError, match="--model_name_or_path: the text's vocabulary is not that of"):
        plan("lstm", tmp_path, *words, "--tokenizer", other)
    (tmp_path / "model" / "tokenizer.json").unlink()
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match=r"--model_name_or_path: .* holds no vocabulary"):
        plan("lstm", tmp_path, *words, "--tokenizer", other)


def no_vocabulary(folder: Path) -> Path:
    """A recipe of one's own, which says nothing of its vocabulary."""
    path = folder / "own.yaml"
    values: dict[str, Any] = {"max_steps": 10, "report_to": "none"}
    path.write_text("".join(f"{name}: {value}\n" for name, value in values.items()), encoding="utf-8")
    return path


def test_the_memory_of_the_papers_run_by_hand(tmp_path: Path) -> None:
    """16 layers, float32, of one stream: what each term of transformer_xl/memory.py comes to."""
    found = plan("transformer_xl", tmp_path, "--recipe", "wt103-base", "--bf16", "false")
    layer = 150 * (16 * 410 + 16 + 4 * (3 * 410 + 2100)) + 2 * 300 * 4 * 410 + 10 * 150 * 300 * 4
    layer += 150 * (2 * 410 + 5 * 2100)  # dropout
    softmax = 150 * 8 * (20_003 + 0.0525 * 20_000 + 0.1220 * 160_000 + 0.0221 * 67_735)
    expected = 16 * (layer + 2 * 4 * 150 * 410) + softmax
    assert found.costs.activation_bytes_per_sequence == pytest.approx(expected, rel=2e-3)
    assert expected / GIB == pytest.approx(0.166, abs=0.001)
