"""What our Hugging Face models share: the architecture's settings, and a tokenizer that is loaded when it is needed."""

from __future__ import annotations

import logging
from typing import Any

from composer.models import HuggingFaceModel
from torchmetrics import Metric
from transformers import BertConfig, PreTrainedModel

from composer_kd.models.tokenizers import load_tokenizer, vocabulary_digest


def _no_complaint(record: logging.LogRecord) -> bool:
    # Composer warns that no tokenizer will be saved; it will be.
    return 'tokenizer was not provided' not in str(record.msg)


class TokenizedModel(HuggingFaceModel):
    """A Hugging Face model that knows the name of its tokenizer.

    The tokenizer goes into every checkpoint and tells whether two models number the same words alike. Loading it may
    take the network, so that waits until somebody asks: a recipe can be checked and planned without.

    Args:
        model: The model.
        tokenizer: A folder or a name on the hub; ``None`` for none.
        metrics: Of evaluation.
        shift_labels: Whether the logits at a token are for the next one, its label being the token itself.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: str | None, metrics: list[Metric], shift_labels: bool = False,
    ) -> None:
        self._tokenizer_name: str | None = None
        logger = logging.getLogger(HuggingFaceModel.__module__)
        logger.addFilter(_no_complaint)
        try:
            super().__init__(model, tokenizer=None, eval_metrics=metrics, use_logits=True, shift_labels=shift_labels)
        finally:
            logger.removeFilter(_no_complaint)
        self._tokenizer_name = tokenizer

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, or ``None``."""
        return None if self._tokenizer_name is None else load_tokenizer(self._tokenizer_name)

    @tokenizer.setter
    def tokenizer(self, value: Any) -> None:
        if value is not None:
            raise TypeError(f'tokenizer: expected None, to be loaded by name later, got {type(value).__name__}.')

    @property
    def vocabulary(self) -> str | None:
        """The digest of the tokenizer's words and their numbers, or ``None`` without a tokenizer.

        Raises:
            ValueError: If it cannot be loaded, or has more words than the model.
        """
        tokenizer = self.tokenizer
        if tokenizer is None:
            return None
        if len(tokenizer) > self.config.vocab_size:
            raise ValueError(
                f'model.vocab_size: the tokenizer {self._tokenizer_name!r} has {len(tokenizer):,} words and the model '
                f'{self.config.vocab_size:,}; set vocab_size to {len(tokenizer)} or more.',
            )
        return vocabulary_digest(tokenizer)

    def get_metadata(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights: configuration and tokenizer, under transformers' own class."""
        metadata: dict[str, Any] = super().get_metadata()
        own = next(kind for kind in type(self.model).__mro__ if kind.__module__.startswith('transformers.'))
        metadata['model']['config']['class'] = f'{own.__module__}.{own.__name__}'
        return metadata


def attention_kind(name: str) -> str:
    """How attention is computed, checked.

    Raises:
        ValueError: For a name that is neither.
    """
    if name not in ('sdpa', 'eager'):
        raise ValueError(f"attn_implementation: expected 'sdpa' or 'eager', got {name!r}.")
    return name


def bert_config(
    vocab_size: int,
    hidden_size: int,
    num_hidden_layers: int,
    num_attention_heads: int,
    intermediate_size: int,
    max_position_embeddings: int,
    hidden_dropout_prob: float,
    attention_probs_dropout_prob: float,
    **further: Any,
) -> BertConfig:
    """A BERT's configuration, its values checked.

    Raises:
        ValueError: Naming the setting that is out of range.
    """
    sizes = {
        'vocab_size': vocab_size, 'hidden_size': hidden_size, 'num_hidden_layers': num_hidden_layers,
        'num_attention_heads': num_attention_heads, 'intermediate_size': intermediate_size,
        'max_position_embeddings': max_position_embeddings,
    }
    for name, value in sizes.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name}: expected a whole number of 1 or more, got {value!r}.')
    shares = {
        'hidden_dropout_prob': hidden_dropout_prob, 'attention_probs_dropout_prob': attention_probs_dropout_prob,
    }
    for name, share in shares.items():
        if isinstance(share, bool) or not 0 <= share < 1:
            raise ValueError(f'{name}: expected a share from 0 to below 1, got {share!r}.')
    if hidden_size % num_attention_heads:
        raise ValueError(
            f'num_attention_heads: expected a number that divides hidden_size ({hidden_size}), got '
            f'{num_attention_heads}.',
        )
    return BertConfig(**sizes, **shares, **further)
