"""BERT for masked language modelling, with the vocabulary's head only where there is something to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from composer.metrics import LanguageCrossEntropy, MaskedAccuracy
from composer.models import HuggingFaceModel
from torch import Tensor
from transformers import BertForMaskedLM
from transformers.utils import ModelOutput

from composer_kd.batches import POSITIONS, at_positions, labelled
from composer_kd.functional import cross_entropy
from composer_kd.models.hugging_face import TokenizedModel, attention_kind, bert_config
from composer_kd.models.registry import MODELS

_IGNORED = -100


@dataclass
class MaskedRows(ModelOutput):
    """Logits at some of the tokens.

    Attributes:
        loss: Mean cross-entropy over those of them that have a label; 0, with a graph, if none has.
        logits: ``(M, V)``, or ``(N, L, V)`` where no positions were asked for.
        masked_positions: Their places among the ``N * L`` tokens, ``(M,)``; ``None`` for all.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    masked_positions: Tensor | None = None


class MaskedBert(BertForMaskedLM):
    """Transformers' own BERT with the same parameters under the same names; only what is computed differs.

    The head (a dense layer and a product with all words) runs at ``masked_positions`` alone, or, where those are not
    given, at the labelled positions, for which the device is waited for once. With neither it runs everywhere. At those
    positions its logits are those of the full head.
    """

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        masked_positions: Tensor | None = None,
    ) -> MaskedRows:
        """Logits at the positions, and the loss where there are labels."""
        if masked_positions is None and labels is not None:
            masked_positions = labelled(labels, _IGNORED)
        if attention_mask is not None and attention_mask.dim() == 2:
            # Of a mask (N, L) transformers asks the device whether all of it is ones, and waits for the answer.
            attention_mask = attention_mask[:, None].expand(-1, input_ids.shape[1], -1)
        hidden = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)[0]
        logits = self.cls(at_positions(hidden, masked_positions, 3))
        if labels is None:
            return MaskedRows(logits=logits, masked_positions=masked_positions)
        wanted = at_positions(labels, masked_positions, 2)
        # The sum over the count, not the mean: the mean of nothing is NaN, and times zero it stays so.
        total = cross_entropy(logits, wanted, ignore_index=_IGNORED).sum()
        count = (wanted != _IGNORED).sum().clamp_min(1)
        return MaskedRows(loss=total / count, logits=logits, masked_positions=masked_positions)


class MaskedLanguageModel(TokenizedModel):
    """A :class:`MaskedBert` for Composer. Evaluation, too, runs the head at the labelled positions alone."""

    def eval_forward(self, batch: Any, outputs: Any = None) -> Tensor:
        """Logits ``(M, V)`` at the labelled positions."""
        found = outputs if outputs is not None else self.forward(batch)
        self.labels = at_positions(batch['labels'], found[POSITIONS], 2)
        logits: Tensor = found['logits']
        return logits


@MODELS.register('bert_masked_lm')
def bert_masked_lm(
    tokenizer: str | None = None,
    vocab_size: int = 30522,
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    intermediate_size: int = 3072,
    max_position_embeddings: int = 512,
    hidden_dropout_prob: float = 0.1,
    attention_probs_dropout_prob: float = 0.1,
    attn_implementation: str = 'sdpa',
) -> HuggingFaceModel:
    """BERT (Devlin et al. 2018, arXiv 1810.04805) for masked language modelling, freshly initialised.

    The defaults are bert-base-uncased's. Checkpoints hold transformers' own ``BertForMaskedLM``:
    ``HuggingFaceModel.hf_from_composer_checkpoint`` reads them. The vocabulary's head runs at the labelled positions
    alone, in training, in evaluation and, under ``Distillation``, in the teachers. The metrics are
    ``LanguageCrossEntropy`` and ``MaskedAccuracy``.

    Args:
        tokenizer: Folder or name on the hub; saved with every checkpoint, and held against data's and teachers'.
        vocab_size: Words, as many as the tokenizer has or more.
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each; divides the width.
        intermediate_size: Width of the feed-forward layers.
        max_position_embeddings: Longest sequence in tokens.
        hidden_dropout_prob: Share dropped, 0 to below 1.
        attention_probs_dropout_prob: Share of attention dropped, 0 to below 1.
        attn_implementation: ``'sdpa'`` (fused) or ``'eager'``, which makes the probabilities that losses of
            attention compare.

    Returns:
        A model whose batches are mappings with ``input_ids``, ``attention_mask`` and ``labels``, each ``(N, L)`` int64
        with -100 where nothing is to be predicted, and optionally ``masked_positions`` ``(M,)``, the places of the
        labels among the ``N * L`` tokens, so that the device need not be waited for to find them.

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> import torch
        >>> model = bert_masked_lm(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        ...                        intermediate_size=16)
        >>> words = torch.arange(12).reshape(2, 6)
        >>> labels = torch.where(words % 4 == 0, words, -100)
        >>> model({'input_ids': words, 'labels': labels}).logits.shape
        torch.Size([3, 50])
    """
    config = bert_config(
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings,
        hidden_dropout_prob, attention_probs_dropout_prob, attn_implementation=attention_kind(attn_implementation),
    )
    return MaskedLanguageModel(MaskedBert(config), tokenizer, [LanguageCrossEntropy(), MaskedAccuracy()])
