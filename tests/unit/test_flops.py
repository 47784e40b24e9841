"""The hand-made count of operations against torch's counter, which watches the model run."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AlbertConfig,
    AutoModelForMaskedLM,
    BertConfig,
    DistilBertConfig,
    ElectraConfig,
    MegatronBertConfig,
    ModernBertConfig,
    PretrainedConfig,
    RobertaConfig,
)

from bert.flops import forward_flops_per_sequence
from bert.masking import IGNORED_LABEL
from bert.model import build_model
from nlp_adan.modeling.sparse_layers import SparseLayer, make_dense
from nlp_adan.pretraining.costs import TRAINING_PER_FORWARD

BATCH, SEQ, NUM_MASKED = 2, 40, 10
SIZES: dict[str, Any] = {
    "vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
IDS: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
CONFIGS = [
    BertConfig(**SIZES),
    RobertaConfig(**SIZES),
    DistilBertConfig(vocab_size=97, dim=32, n_layers=3, n_heads=4, hidden_dim=48),
    ModernBertConfig(**SIZES, **IDS, local_attention=8),
]
OTHERS = [ElectraConfig(**SIZES, embedding_size=16), AlbertConfig(**SIZES, embedding_size=16)]


def labelled_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(5, 90, (BATCH, SEQ), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, IGNORED_LABEL)
    labels[:, 5 : 5 + NUM_MASKED] = ids[:, 5 : 5 + NUM_MASKED]
    return {"input_ids": ids, "labels": labels}


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse last layer"])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: str(config.model_type))
def test_equals_what_the_counter_sees(config: PretrainedConfig, sparse: bool) -> None:
    """Equally many masked in each sequence: no query only fills up the batch."""
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"  # the counter has no formula for torch's attention kernel on CPU
    model: Any = build_model(config).train()
    if sparse and not model.sparse_last_layer:
        pytest.skip("its last layer runs on all positions")
    for layer in [module for module in model.modules() if isinstance(module, SparseLayer)]:
        if not sparse:
            make_dense(layer)
    with FlopCounterMode(display=False) as forward:
        loss = model(**labelled_batch())["loss"]
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    expected = BATCH * forward_flops_per_sequence(config, SEQ, NUM_MASKED / SEQ, sparse)
    assert forward.get_total_flops() == expected
    assert forward.get_total_flops() + backward.get_total_flops() == TRAINING_PER_FORWARD * expected


@pytest.mark.parametrize("config", OTHERS, ids=lambda config: str(config.model_type))
def test_other_models_are_counted_too(config: PretrainedConfig) -> None:
    """With all tokens masked the head runs everywhere, as in the model's own forward."""
    found = forward_flops_per_sequence(config, SEQ, 1.0)
    theirs = AutoModelForMaskedLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counter:
        theirs(input_ids=torch.ones(1, SEQ, dtype=torch.long))
    assert found == counter.get_total_flops()
    assert forward_flops_per_sequence(config, SEQ, 0.15) < found


def test_a_model_that_cannot_run_without_data_is_counted_by_its_layers() -> None:
    """MegatronBERT looks for padding in its input; it computes what BERT does."""
    found = forward_flops_per_sequence(MegatronBertConfig(**SIZES), SEQ, 0.15)
    assert found == forward_flops_per_sequence(BertConfig(**SIZES), SEQ, 0.15)


@pytest.mark.parametrize("config", [*CONFIGS, OTHERS[0]], ids=lambda config: str(config.model_type))
def test_a_sparse_last_layer_saves_what_runs_on_masked_positions(config: PretrainedConfig) -> None:
    """With every token masked it saves nothing; with none, all of the layer but its keys and values."""
    assert forward_flops_per_sequence(config, SEQ, 1.0, True) == forward_flops_per_sequence(config, SEQ, 1.0)
    saved = forward_flops_per_sequence(config, SEQ, 0.0) - forward_flops_per_sequence(config, SEQ, 0.0, True)
    matrices = 32 * 32 + 3 * 32 * 48 if config.model_type == "modernbert" else 2 * 32 * 32 + 2 * 32 * 48
    assert saved == 2 * SEQ * matrices + 4 * SEQ * SEQ * 32


@pytest.mark.parametrize("seq", [3, 4, 5, 40])
def test_a_windowed_kernel_computes_the_window(seq: int) -> None:
    """Layers 0 of 3 are global; in the others a query sees 4 keys to either side, fewer at the ends."""
    config = ModernBertConfig(**SIZES, **IDS, local_attention=8)
    config._attn_implementation = "sdpa"
    whole = forward_flops_per_sequence(config, seq, 0.15)
    config._attn_implementation = "flash_attention_2"
    skipped = sum(abs(query - key) > 4 for query in range(seq) for key in range(seq))
    assert whole - forward_flops_per_sequence(config, seq, 0.15) == pytest.approx(2 * 4 * skipped * 32, abs=1e-6)


def test_bert_base_by_the_common_rule() -> None:
    """About 2 x 85 M parameters of the layers a token; attention adds 11 % at 512, the head 4 % at 0.15."""
    config = BertConfig()
    per_token = forward_flops_per_sequence(config, 512, 0.15) / 512
    layers = 2 * 12 * (4 * 768**2 + 2 * 768 * 3072)
    assert per_token == pytest.approx(layers * (1 + 0.1111 + 0.0424), rel=1e-3)
