"""What a masked language model knows, beside what guessing reaches."""

from __future__ import annotations

import numpy as np
from transformers import EvalPrediction

from bert.masking import IGNORED_LABEL
from bert.model import STATISTICS


def masked_lm_metrics(prediction: EvalPrediction, unigram_counts: np.ndarray) -> dict[str, float]:
    """Figures over all masked tokens of the validation blocks; losses in nats a token.

    Args:
        prediction: `predictions` (num_blocks, 4), `bert.model.STATISTICS`; `label_ids` (num_blocks, block_size).
        unigram_counts: (vocab,) int64, how often each token stands in the training blocks.
    """
    totals = dict(zip(STATISTICS, prediction.predictions.astype(np.float64).sum(axis=0), strict=True))
    targets = prediction.label_ids[prediction.label_ids != IGNORED_LABEL]
    unigram = (unigram_counts + 1) / (unigram_counts.sum() + len(unigram_counts))  # add one: none is impossible
    commonest = np.argsort(-unigram_counts, kind="stable")[:5]
    return {
        "mlm_loss": totals["loss_sum"] / totals["num_masked"],
        "unigram_cross_entropy": float(-np.log(unigram[targets]).mean()),
        "top1_accuracy": totals["num_top1_correct"] / totals["num_masked"],
        "top5_accuracy": totals["num_top5_correct"] / totals["num_masked"],
        "five_commonest_accuracy": float(np.isin(targets, commonest).mean()),
        "masked_tokens": int(totals["num_masked"]),
    }
