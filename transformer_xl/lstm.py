"""The LSTM language model of the AWD kind (Merity et al. 2017): dropped recurrent weights, which train; tied softmax.

The layers run time-major, as torch's LSTM kernels do. Every parameter belongs to the module whose forward uses it:
ZeRO-3 gathers what a module's own hooks name.

Suffixes of names are their axes: t positions, b batch, d width, v vocabulary, n = t b.
"""

from __future__ import annotations

import itertools
import math
import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, initialization
from transformers.utils.generic import can_return_tuple

from .cross_entropy import IGNORED_LABEL, linear_cross_entropy
from .lstm_configuration import AWDLSTMConfig, check_config
from .outputs import LanguageModelOutput

TABLE_RANGE = 0.1  # fresh embeddings are uniform in +-0.1, as awd-lstm-lm's
# cuDNN would have the weights in one buffer; dropped ones are made anew in every pass, so they never are.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous chunk of memory")


class WordEmbedding(nn.Embedding):
    """An embedding with dropout of whole words: one that is dropped is 0 wherever it stands in the batch."""

    def __init__(self, num_words: int, width: int, dropout: float) -> None:
        super().__init__(num_words, width)
        self.dropout = dropout

    def forward(self, input: Tensor) -> Tensor:
        """Ids of any shape to (..., width)."""
        embedded = functional.embedding(input, self.weight)
        if not self.training or self.dropout == 0:
            return embedded
        # The mask has a number for each word of the vocabulary; applied to the words at hand, not to the table.
        mask_v1 = functional.dropout(self.weight.new_ones(self.num_embeddings, 1), self.dropout)
        return embedded * functional.embedding(input, mask_v1)


class VariationalDropout(nn.Module):
    """Dropout with one mask for all positions of a sequence."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout

    def forward(self, hidden_tbd: Tensor) -> Tensor:
        """Same shape."""
        if not self.training or self.dropout == 0:
            return hidden_tbd
        return hidden_tbd * functional.dropout(torch.ones_like(hidden_tbd[:1]), self.dropout)


class WeightDropLSTM(nn.Module):
    """One LSTM layer whose hidden-to-hidden weights are dropped (DropConnect), one mask a forward pass.

    The dropped weights are a result of the raw ones, given to torch's LSTM kernel as an operand: the gradient goes
    through the mask to the raw weights. Parameters are named and ordered as in torch's `nn.LSTM`: (4 width, ...),
    gates i, f, g, o.
    """

    def __init__(self, input_width: int, width: int, weight_dropout: float) -> None:
        super().__init__()
        self.width = width
        self.weight_dropout = weight_dropout
        self.weight_ih = nn.Parameter(torch.empty(4 * width, input_width))
        self.weight_hh = nn.Parameter(torch.empty(4 * width, width))
        self.bias_ih = nn.Parameter(torch.empty(4 * width))
        self.bias_hh = nn.Parameter(torch.empty(4 * width))

    def forward(self, hidden_tbd: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Run over all positions.

        Args:
            hidden_tbd: (t, b, input_width).
            state: h and c, (b, width), before the first position.

        Returns: the outputs, (t, b, width); h and c, (b, width), after the last position.
        """
        weight_hh = self.weight_hh
        if self.training and self.weight_dropout > 0:
            weight_hh = functional.dropout(weight_hh, self.weight_dropout)
        outputs, h, c = torch.lstm(
            hidden_tbd,
            tuple(level[None] for level in state),
            (self.weight_ih, weight_hh, self.bias_ih, self.bias_hh),
            has_biases=True,
            num_layers=1,
            dropout=0.0,
            train=torch.is_grad_enabled(),  # only so do the kernels keep what a backward pass needs
            bidirectional=False,
            batch_first=False,
        )
        return outputs, h[0], c[0]


class SoftmaxHead(nn.Module):
    """Linear layer and softmax over the vocabulary."""

    def __init__(self, width: int, num_words: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_words, width))
        self.bias = nn.Parameter(torch.empty(num_words))

    def forward(self, hidden_nd: Tensor, labels_n: Tensor | None) -> Tensor:
        """Losses of the labels, (n,); without labels the log-probabilities, (n, v). Float32 at least."""
        if labels_n is not None:
            return linear_cross_entropy(hidden_nd, self.weight, self.bias, labels_n)
        logits_nv = functional.linear(hidden_nd, self.weight, self.bias)
        return torch.log_softmax(logits_nv, dim=-1, dtype=torch.promote_types(logits_nv.dtype, torch.float32))


class AWDLSTMForCausalLM(PreTrainedModel):
    """An LSTM language model with tied softmax. Its memory is the state of the layers, so it sees all of the past."""

    config_class = AWDLSTMConfig
    accepts_loss_kwargs = True
    _tied_weights_keys = {"head.weight": "embedding.weight"}  # noqa: RUF012 - as in every model of transformers

    def __init__(self, config: AWDLSTMConfig) -> None:
        check_config(config)
        super().__init__(config)
        self.loss_type = None  # by its name the Trainer would take it for one that shifts labels, and count fewer
        widths = config.layer_widths
        self.embedding = WordEmbedding(config.vocab_size, config.embedding_size, config.embedding_dropout)
        self.input_dropout = VariationalDropout(config.input_dropout)
        self.layers = nn.ModuleList(
            WeightDropLSTM(before, after, config.weight_dropout) for before, after in itertools.pairwise(widths)
        )
        self.hidden_dropout = VariationalDropout(config.hidden_dropout)
        self.output_dropout = VariationalDropout(config.output_dropout)
        self.head = SoftmaxHead(widths[-1], config.vocab_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """See PreTrainedModel."""
        return self.embedding

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (WordEmbedding, SoftmaxHead)):
            initialization.uniform_(module.weight, -TABLE_RANGE, TABLE_RANGE)
        if isinstance(module, SoftmaxHead):
            initialization.zeros_(module.bias)
        if isinstance(module, WeightDropLSTM):
            bound = 1 / math.sqrt(module.width)  # torch's own for an LSTM
            for param in module.parameters():
                initialization.uniform_(param, -bound, bound)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        mems: tuple[Tensor, ...] | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_logits: bool | None = None,
    ) -> LanguageModelOutput:
        """Read a segment of each sequence, after what `mems` remembers.

        Args:
            input_ids: (batch, seq) int64.
            mems: of the segment before; None or (): nothing is before.
            labels: (batch, seq) int64, labels[:, t] the target of position t (no shift); -100: none.
            num_items_in_batch: labels of the whole optimizer step; None: of this batch.
            output_logits: whether to return log-probabilities; None: without labels only.

        Returns: `mems` are h and c of each layer in turn, each (batch, width). In training `loss` has the activation
            regularisation in it, `losses` never.
        """
        hidden_tbd = self.input_dropout(self.embedding(input_ids.t()))
        raw_tbd, mems = self._run_layers(hidden_tbd, mems or ())
        dropped_tbd = self.output_dropout(raw_tbd)
        hidden_nd = dropped_tbd.flatten(0, 1)
        output = LanguageModelOutput(mems=mems)
        if output_logits or (output_logits is None and labels is None):
            output.logits = self.head(hidden_nd, None).unflatten(0, dropped_tbd.shape[:2]).transpose(0, 1)
        if labels is not None:
            output.losses = self.head(hidden_nd, labels.t().flatten()).view(labels.shape[::-1]).t()
            num_labels = (labels != IGNORED_LABEL).sum()
            divisor = num_labels.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
            output.loss = output.losses.sum() / divisor
            if self.training and (self.config.alpha or self.config.beta):
                # Over the micro-batches i of a step: sum_i (labels_i / labels of the step) x mean_i is the mean over
                # the whole step, for any split into micro-batches and ranks.
                output.loss = output.loss + self._regularisation(dropped_tbd, raw_tbd) * (num_labels / divisor)
        return output

    def _run_layers(self, hidden_tbd: Tensor, mems: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Outputs of the last layer, and the state after the last position, without gradient."""
        after: list[Tensor] = []
        for number, layer in enumerate(self.layers):
            if number > 0:
                hidden_tbd = self.hidden_dropout(hidden_tbd)
            if mems:
                state = mems[2 * number].to(hidden_tbd.dtype), mems[2 * number + 1].to(hidden_tbd.dtype)
            else:
                zeros_bd = hidden_tbd.new_zeros(hidden_tbd.shape[1], layer.width)
                state = zeros_bd, zeros_bd
            hidden_tbd, h_bd, c_bd = layer(hidden_tbd, state)
            after += [h_bd.detach(), c_bd.detach()]
        return hidden_tbd, tuple(after)

    def _regularisation(self, dropped_tbd: Tensor, raw_tbd: Tensor) -> Tensor:
        """alpha mean(dropped^2) + beta mean((raw_t+1 - raw_t)^2), of the last layer's outputs (Merity et al. 2017b)."""
        wide = torch.promote_types(raw_tbd.dtype, torch.float32)
        penalty = self.config.alpha * dropped_tbd.to(wide).square().mean()
        if len(raw_tbd) > 1:
            penalty = penalty + self.config.beta * raw_tbd.to(wide).diff(dim=0).square().mean()
        return penalty
