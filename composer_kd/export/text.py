"""Hugging Face's models, as its own classes save them."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import transformers
from composer.models import HuggingFaceModel
from transformers import AutoTokenizer, PreTrainedModel

from composer_kd.export.probe import TOLERANCE, Probe
from composer_kd.export.written import Written, fill, refuse_difference
from composer_kd.models import vocabulary_digest

_AUTO = {
    'AutoModelForMaskedLM': 'MODEL_FOR_MASKED_LM_MAPPING',
    'AutoModelForSequenceClassification': 'MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING',
    'AutoModelForCausalLM': 'MODEL_FOR_CAUSAL_LM_MAPPING',
}
_CODE = '''
from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained('.')
tokenizer = AutoTokenizer.from_pretrained('.')
logits = model(**tokenizer('some text', return_tensors='pt')).logits
'''
_WITHOUT_TOKENIZER = '''
import torch
from transformers import {loader}

model = {loader}.from_pretrained('.')
logits = model(input_ids=torch.zeros(1, 8, dtype=torch.int64)).logits
'''


def _loader(model: PreTrainedModel) -> str:
    """The class of transformers that finds a model's own from its files, or the model's own."""
    for auto, mapping in _AUTO.items():
        if getattr(transformers, mapping).get(type(model.config), None) is type(model):
            return auto
    return type(model).__name__


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Write a tokenizer's files and read them again.

    Raises:
        RuntimeError: If they give a tokenizer that numbers words otherwise.
    """
    tokenizer.save_pretrained(folder)
    written = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if vocabulary_digest(written) != vocabulary_digest(tokenizer):
        raise RuntimeError(
            'export: loaded with transformers, the tokenizer numbers words otherwise than that of the run. Nothing was '
            'written.',
        )


def write_transformers(model: HuggingFaceModel, probe: Probe, names: list[str], folder: Path) -> Written | None:
    """Write a model and its tokenizer under transformers' own class.

    Args:
        model: The run's model.
        probe: What it has to compute.
        names: Of the classes, as far as they are known.
        folder: Where to write.

    Returns:
        What was written; ``None`` if none of transformers' classes computes that.

    Raises:
        RuntimeError: If what was written, loaded again, computes something else or numbers words otherwise.
        ValueError: If the tokenizer cannot be loaded.
    """
    kinds = [kind for kind in type(model.model).__mro__ if kind.__module__.startswith('transformers.')]
    if not kinds or not issubclass(kinds[0], PreTrainedModel):
        return None
    config: Any = copy.deepcopy(model.config)
    plain = kinds[0](config)
    if not fill(plain, model.model) or probe.difference(plain) > TOLERANCE:
        return None
    if names:
        config.id2label, config.label2id = dict(enumerate(names)), {name: at for at, name in enumerate(names)}
    plain.save_pretrained(folder)
    tokenizer: Any = model.tokenizer
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)
    loader = _loader(plain)
    loaded = getattr(transformers, loader).from_pretrained(folder)
    refuse_difference('transformers', probe.difference(loaded), TOLERANCE)
    words = [f'The vocabulary has {config.vocab_size:,} words.']
    if tokenizer is not None:
        words = [f'The vocabulary has {len(tokenizer):,} words; the model has room for {config.vocab_size:,}.']
    code = (_WITHOUT_TOKENIZER if tokenizer is None else _CODE).format(loader=loader)
    return Written(type(plain).__name__, ('transformers',), ('transformers',), {'transformers': code}, words)
