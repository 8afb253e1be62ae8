"""BERT with a head on its first token, for classes or a number of a sentence or of a pair of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from composer.metrics import BinaryF1Score
from composer.models import HuggingFaceModel
from torch import Tensor
from torchmetrics import Metric, PearsonCorrCoef, SpearmanCorrCoef
from torchmetrics.classification import MulticlassAccuracy, MulticlassMatthewsCorrCoef
from transformers import BertForSequenceClassification

from composer_kd.models.hugging_face import TokenizedModel, attention_kind, bert_config
from composer_kd.models.registry import MODELS
from composer_kd.names import nearest

METRICS: dict[str, Callable[[int], Metric]] = {
    'accuracy': lambda classes: MulticlassAccuracy(num_classes=classes, average='micro'),
    'f1': lambda classes: BinaryF1Score(),
    'matthews': lambda classes: MulticlassMatthewsCorrCoef(num_classes=classes),
    'pearson': lambda classes: PearsonCorrCoef(),
    'spearman': lambda classes: SpearmanCorrCoef(),
}
"""Metrics by name; in records they go by the name of their class."""

_OF_NUMBERS = frozenset({'pearson', 'spearman'})


class SentenceModel(TokenizedModel):
    """A ``BertForSequenceClassification`` for Composer."""

    def forward(self, batch: Any) -> Any:
        """The Hugging Face output, with a loss where the batch has labels."""
        labels = batch.get('labels') if isinstance(batch, Mapping) else None
        if isinstance(labels, Tensor) and labels.is_floating_point() != (self.config.num_labels == 1):
            kind = 'real numbers' if labels.is_floating_point() else 'classes'
            raise ValueError(
                f'The labels of this data are {kind}, and the model was made with num_labels {self.config.num_labels}. '
                'Set model.num_labels to 1 for a regression, or else to the number of classes.',
            )
        words = batch.get('input_ids') if isinstance(batch, Mapping) else None
        if isinstance(words, Tensor) and words.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f'The data has sequences of {words.shape[1]} tokens, and the model takes '
                f'{self.config.max_position_embeddings}. Lower max_seq_len, or raise model.max_position_embeddings.',
            )
        return super().forward(batch)

    def eval_forward(self, batch: Any, outputs: Any = None) -> Tensor:
        """Logits ``(N, C)``, or ``(N,)`` of a regression; float32, as the metrics ask for the labels' type."""
        logits: Tensor = super().eval_forward(batch, outputs)
        return logits.float()


def _metrics(names: Sequence[str], num_labels: int) -> list[Metric]:
    for name in names:
        if name not in METRICS:
            raise ValueError(
                f"metrics: expected names among {', '.join(METRICS)}, got {name!r}.{nearest(name, METRICS)}",
            )
        if (name in _OF_NUMBERS) != (num_labels == 1) or (name == 'f1' and num_labels != 2):
            kind = 'a regression, num_labels 1' if name in _OF_NUMBERS else 'two classes' if name == 'f1' else 'classes'
            raise ValueError(f'metrics: {name!r} is of {kind}; got num_labels {num_labels}.')
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Metric `SpearmanCorrcoef` will save')
        return [METRICS[name](num_labels) for name in names]


@MODELS.register('bert_classifier')
def bert_classifier(
    tokenizer: str | None = None,
    num_labels: int = 2,
    metrics: list[str] | None = None,
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
    """BERT (Devlin et al. 2018, arXiv 1810.04805, section 4.1) with a linear head on its pooled first token.

    The defaults are bert-base-uncased's, freshly initialised; a recipe's ``start_from`` gives it the weights of a
    pre-training. Checkpoints hold transformers' own ``BertForSequenceClassification``.

    Args:
        tokenizer: Folder or name on the hub; saved with every checkpoint, and held against data's and teachers'.
        num_labels: Number of classes, 2 or more, learnt with cross-entropy; 1 for a regression with the mean squared
            error.
        metrics: Of ``accuracy``, ``f1`` (of the second of two classes) and ``matthews`` for classes, ``pearson`` and
            ``spearman`` for a regression; default: ``accuracy``, or ``spearman``.
        vocab_size: Words, as many as the tokenizer has or more.
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each; divides the width.
        intermediate_size: Width of the feed-forward layers.
        max_position_embeddings: Longest sequence in tokens.
        hidden_dropout_prob: Share dropped, before the head as well, 0 to below 1.
        attention_probs_dropout_prob: Share of attention dropped, 0 to below 1.
        attn_implementation: ``'sdpa'`` (fused) or ``'eager'``, which makes the probabilities that losses of
            attention compare.

    Returns:
        A model whose batches are mappings with ``input_ids``, ``attention_mask`` and ``token_type_ids``, each
        ``(N, L)`` int64, and ``labels`` ``(N,)``, int64 or, for a regression, float32. Its logits are
        ``(N, num_labels)``.

    Raises:
        ValueError: For a value out of range, or a metric that is unknown or of another kind of labels.

    Example:
        >>> import torch
        >>> model = bert_classifier(num_labels=3, vocab_size=50, hidden_size=8, num_hidden_layers=1,
        ...                         num_attention_heads=2, intermediate_size=16)
        >>> model({'input_ids': torch.arange(12).reshape(2, 6)}).logits.shape
        torch.Size([2, 3])
    """
    if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
        raise ValueError(
            f'num_labels: expected a number of classes of 2 or more, or 1 for a regression, got {num_labels!r}.',
        )
    measured = _metrics(metrics or ['spearman' if num_labels == 1 else 'accuracy'], num_labels)
    config = bert_config(
        vocab_size, hidden_size, num_hidden_layers, num_attention_heads, intermediate_size, max_position_embeddings,
        hidden_dropout_prob, attention_probs_dropout_prob, num_labels=num_labels,
        attn_implementation=attention_kind(attn_implementation),
        # Left open, transformers guesses it from the first batch and keeps the guess in the configuration.
        problem_type='regression' if num_labels == 1 else 'single_label_classification',
    )
    return SentenceModel(BertForSequenceClassification(config), tokenizer, measured)
