"""Small trainings on the digits and on text, with live teachers and with stored ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from composer_kd import Distillation
from composer_kd.models import build_model
from composer_kd.recipes.tasks.digits import digits
from tests.common import classifier, network, trainer, weights

BATCHES = 6
"""Of an epoch."""


def data(seed: int = 17, **changes: Any) -> Any:
    """96 digits in batches of 16, noisy and shifted anew in each view."""
    return digits(**{'batch_size': 16, 'seed': seed, 'train': True, 'train_size': 96, 'noise': 0.3, 'shift': 1, **changes})


def teacher(seed: int = 1) -> nn.Module:
    return network(10, seed=seed)


def live(path: Path | str | None = None, seed: int = 1, fill: bool = True, form: Any = None, **more: Any) -> dict[str, Any]:
    """A teacher, and where its answers are stored, if anywhere."""
    form = {'name': 'dense', 'dtype': 'float32'} if form is None else form
    cache = {} if path is None else {'cache': {'path': str(path), 'fill': fill, 'format': form}}
    return {'module': teacher(seed), **cache, **more}


def stored(path: Path | str, **more: Any) -> dict[str, Any]:
    return {'cache': str(path), **more}


KD = ('loss', 'kd_loss_weight', 'start', 'end', 'interval', 'probability', 'teachers_per_batch', 'sampling', 'combine',
      'check_batches', 'seed', 'placement', 'teacher_microbatch_size', 'prepare', 'on_nonfinite', 'ignore_index', 'target_key')


def train(teachers: Any, duration: str = '2ep', spec: Any = None, model: Any = None, **settings: Any) -> Any:
    """Train; the trainer, with its ``Distillation`` as ``kd``."""
    kd = Distillation(teachers, **{key: settings.pop(key) for key in KD if key in settings})
    spec = data() if spec is None else spec
    fit = trainer(
        [kd, *settings.pop('algorithms', [])], model=classifier(0, 10) if model is None else model, data=spec,
        max_duration=duration, **settings,
    )
    try:
        fit.fit()
    except BaseException:
        workers = getattr(getattr(spec, 'dataloader', spec), '_iterator', None)
        if workers is not None:  # or they wait until the error, and all that it refers to, is let go
            workers._shutdown_workers()
        raise
    fit.kd = kd
    return fit


def trained(*args: Any, **settings: Any) -> Any:
    """The weights after training."""
    return weights(train(*args, **settings))


def keeper(fit: Any, index: int = 0) -> Any:
    return fit.kd.teachers[index].keeper


def text_model(vocabulary: int, seed: int = 0) -> Any:
    """A masked-language model that gives logits at the labelled positions alone, without dropout."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_model({
            'name': 'bert_masked_lm', 'vocab_size': vocabulary, 'hidden_size': 16, 'num_hidden_layers': 1,
            'num_attention_heads': 2, 'intermediate_size': 32, 'max_position_embeddings': 32,
            'hidden_dropout_prob': 0.0, 'attention_probs_dropout_prob': 0.0,
        })
