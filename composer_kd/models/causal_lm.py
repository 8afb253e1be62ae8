"""Causal language models of Hugging Face's configurations: GPT-2's and Llama's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from composer.metrics import LanguageCrossEntropy, LanguagePerplexity
from composer.models import HuggingFaceModel
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from composer_kd.models.hugging_face import TokenizedModel, attention_kind
from composer_kd.models.registry import MODELS


class CausalLanguageModel(TokenizedModel):
    """A language model of Hugging Face for Composer, whose labels are its inputs, shifted by the model itself."""

    def __init__(self, model: GPT2LMHeadModel | LlamaForCausalLM, tokenizer: str | None) -> None:
        super().__init__(model, tokenizer, [LanguageCrossEntropy(), LanguagePerplexity()], shift_labels=True)

    def forward(self, batch: Any) -> Any:
        """As of any Hugging Face model, but for ``attention_mask``, which is left out.

        Padding stands at the end of a sample, where no token before it looks and no label counts. Without the mask the
        quicker attention without one runs, and the device is not waited for, which transformers asks whether all of a
        mask is ones.
        """
        if isinstance(batch, Mapping):
            batch = {name: value for name, value in batch.items() if name != 'attention_mask'}
        return super().forward(batch)


def _check(counts: dict[str, int], shares: dict[str, float]) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f'{name}: expected a whole number of 1 or more, got {value!r}.')
    for name, share in shares.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < 1:
            raise ValueError(f'{name}: expected a share from 0 to below 1, got {share!r}.')


def _divides(name: str, count: int, of: str, size: int) -> None:
    if size % count:
        raise ValueError(f'{name}: expected a number that divides {of} ({size}), got {count}.')


@MODELS.register('gpt2')
def gpt2(
    tokenizer: str | None = None,
    vocab_size: int = 50257,
    hidden_size: int = 768,
    num_hidden_layers: int = 12,
    num_attention_heads: int = 12,
    max_position_embeddings: int = 1024,
    dropout: float = 0.1,
    attn_implementation: str = 'sdpa',
) -> HuggingFaceModel:
    """GPT-2 (Radford et al. 2019, *Language Models are Unsupervised Multitask Learners*), freshly initialised.

    The defaults are those of the smallest, of 124 million weights. Checkpoints hold transformers' own
    ``GPT2LMHeadModel``. The metrics are ``LanguageCrossEntropy`` and ``LanguagePerplexity``.

    Args:
        tokenizer: Folder or name on the hub; saved with every checkpoint, and held against data's and teachers'.
        vocab_size: Words, as many as the tokenizer has or more.
        hidden_size: Width.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each; divides the width.
        max_position_embeddings: Longest sequence in tokens.
        dropout: Share dropped, of attention too, 0 to below 1.
        attn_implementation: ``'sdpa'`` (fused) or ``'eager'``, which makes the probabilities that losses of
            attention compare.

    Returns:
        A model whose batches are mappings with ``input_ids``, ``attention_mask`` and ``labels``, each ``(N, L)`` int64;
        the label of a token is the token itself, -100 where it is not to be predicted. Samples are padded at their end,
        if at all; ``attention_mask`` is not used. Logits are ``(N, L, V)``, those at a token for the next one.

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> import torch
        >>> model = gpt2(vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
        >>> words = torch.arange(12).reshape(2, 6)
        >>> model({'input_ids': words, 'labels': words}).logits.shape
        torch.Size([2, 6, 50])
    """
    _check({
        'vocab_size': vocab_size, 'hidden_size': hidden_size, 'num_hidden_layers': num_hidden_layers,
        'num_attention_heads': num_attention_heads, 'max_position_embeddings': max_position_embeddings,
    }, {'dropout': dropout})
    _divides('num_attention_heads', num_attention_heads, 'hidden_size', hidden_size)
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=max_position_embeddings, n_embd=hidden_size, n_layer=num_hidden_layers,
        n_head=num_attention_heads, resid_pdrop=dropout, embd_pdrop=dropout, attn_pdrop=dropout, use_cache=False,
        bos_token_id=None, eos_token_id=None, attn_implementation=attention_kind(attn_implementation),
    )
    return CausalLanguageModel(GPT2LMHeadModel(config), tokenizer)


@MODELS.register('llama')
def llama(
    tokenizer: str | None = None,
    vocab_size: int = 32000,
    hidden_size: int = 2048,
    intermediate_size: int = 5632,
    num_hidden_layers: int = 22,
    num_attention_heads: int = 32,
    num_key_value_heads: int = 4,
    max_position_embeddings: int = 2048,
    rope_theta: float = 10000.0,
    tie_word_embeddings: bool = False,
    attention_dropout: float = 0.0,
    attn_implementation: str = 'sdpa',
) -> HuggingFaceModel:
    """A model of Llama's architecture (Touvron et al. 2023, arXiv 2302.13971 and 2307.09288), freshly initialised.

    The defaults are of 1.1 billion weights (those of TinyLlama, Zhang et al. 2024, arXiv 2401.02385, table 1).
    Checkpoints hold transformers' own ``LlamaForCausalLM``. The metrics are ``LanguageCrossEntropy`` and
    ``LanguagePerplexity``.

    Args:
        tokenizer: Folder or name on the hub; saved with every checkpoint, and held against data's and teachers'.
        vocab_size: Words, as many as the tokenizer has or more.
        hidden_size: Width.
        intermediate_size: Width of the feed-forward layers.
        num_hidden_layers: Layers.
        num_attention_heads: Heads of each; divides the width.
        num_key_value_heads: Heads of keys and values; divides the heads.
        max_position_embeddings: Longest sequence in tokens.
        rope_theta: Base of the rotary positions, above 0.
        tie_word_embeddings: Whether words are read and predicted with the same weights.
        attention_dropout: Share of attention dropped, 0 to below 1.
        attn_implementation: ``'sdpa'`` (fused) or ``'eager'``, which makes the probabilities that losses of
            attention compare.

    Returns:
        A model with batches and logits as of :func:`gpt2`.

    Raises:
        ValueError: For a value out of range.

    Example:
        >>> import torch
        >>> model = llama(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=1,
        ...               num_attention_heads=2, num_key_value_heads=1)
        >>> words = torch.arange(12).reshape(2, 6)
        >>> model({'input_ids': words, 'labels': words}).logits.shape
        torch.Size([2, 6, 50])
    """
    _check({
        'vocab_size': vocab_size, 'hidden_size': hidden_size, 'intermediate_size': intermediate_size,
        'num_hidden_layers': num_hidden_layers, 'num_attention_heads': num_attention_heads,
        'num_key_value_heads': num_key_value_heads, 'max_position_embeddings': max_position_embeddings,
    }, {'attention_dropout': attention_dropout})
    _divides('num_attention_heads', num_attention_heads, 'hidden_size', hidden_size)
    _divides('num_key_value_heads', num_key_value_heads, 'num_attention_heads', num_attention_heads)
    if isinstance(rope_theta, bool) or not isinstance(rope_theta, (int, float)) or not rope_theta > 0:
        raise ValueError(f'rope_theta: expected a number above 0, got {rope_theta!r}.')
    if not isinstance(tie_word_embeddings, bool):
        raise ValueError(f'tie_word_embeddings: expected true or false, got {tie_word_embeddings!r}.')
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=hidden_size, intermediate_size=intermediate_size,
        num_hidden_layers=num_hidden_layers, num_attention_heads=num_attention_heads,
        num_key_value_heads=num_key_value_heads, max_position_embeddings=max_position_embeddings,
        rope_theta=float(rope_theta), tie_word_embeddings=tie_word_embeddings, attention_dropout=attention_dropout,
        use_cache=False, bos_token_id=None, eos_token_id=None, attn_implementation=attention_kind(attn_implementation),
    )
    return CausalLanguageModel(LlamaForCausalLM(config), tokenizer)
