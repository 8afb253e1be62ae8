"""The public names of composer_kd, in one place: what of it a release keeps, or says that it changes.

What is not listed here may change without notice. ``python -m composer_kd.public`` prints the table that stands in the
README; a test holds each name to a docstring, to types, and to an example that runs.

Example:
    What a registry holds is looked up by name, and users' own things are registered with its decorator:

    >>> from composer_kd.components import ALGORITHMS, CALLBACKS, LOGGERS, OPTIMIZERS, SCHEDULERS
    >>> from composer_kd.features import FEATURE_LOSSES
    >>> from composer_kd.losses import LOSSES
    >>> from composer_kd.models import MODELS
    >>> from composer_kd.recipes import DATA
    >>> from composer_kd.teachers import TEACHERS
    >>> [name in registry.names() for name, registry in (
    ...     ('mixup', ALGORITHMS), ('speed_monitor', CALLBACKS), ('wandb', LOGGERS), ('adamw', OPTIMIZERS),
    ...     ('cosine_annealing', SCHEDULERS), ('kl_divergence', LOSSES), ('bert_masked_lm', MODELS), ('digits', DATA),
    ...     ('hint', FEATURE_LOSSES), ('torchvision', TEACHERS),
    ... )]
    [True, True, True, True, True, True, True, True, True, True]
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

PUBLIC: Mapping[str, tuple[str, ...]] = {
    'composer_kd': ('Distillation',),
    'composer_kd.losses': ('LOSSES', 'Loss', 'LossSpec', 'make_loss'),
    'composer_kd.features': ('FEATURE_LOSSES', 'FeatureLoss', 'FeatureSpec', 'make_feature_loss'),
    'composer_kd.functional': (
        'all_classes', 'binary_kl_divergence', 'combine_logits', 'combine_probabilities', 'cosine', 'cross_entropy',
        'decoupled_kd', 'dist', 'draw', 'hard_label', 'jensen_shannon', 'kl_divergence', 'masked_mean', 'mse',
        'on_outcomes', 'reverse_kl', 'soft_cross_entropy', 'standardized_kl', 'top_k', 'total_variation',
    ),
    'composer_kd.teachers': (
        'TEACHERS', 'Kind', 'Prepare', 'Teacher', 'build_teachers', 'digest_of', 'model_of_run', 'parse_teachers',
        'read_weights',
    ),
    'composer_kd.answers': ('Format',),
    'composer_kd.components': ('ALGORITHMS', 'CALLBACKS', 'LOGGERS', 'OPTIMIZERS', 'SCHEDULERS'),
    'composer_kd.models': (
        'MODELS', 'Traits', 'apply_surgery', 'bert_classifier', 'bert_masked_lm', 'build_model', 'cifar_resnet',
        'digits_resnet', 'gpt2', 'llama', 'load_tokenizer', 'torchvision_resnet', 'traits_of', 'vocabulary_digest',
    ),
    'composer_kd.callbacks': ('RunRecorder', 'forward_flops', 'forward_flops_per_sample'),
    'composer_kd.recipes': (
        'DATA', 'Recipe', 'build_trainer', 'check_recipe', 'load_recipe', 'parse_recipe', 'recipe_digest', 'train',
        'train_main',
    ),
    'composer_kd.runs': ('Record', 'RunFolder', 'digest', 'schema_markdown', 'write_atomically'),
    'composer_kd.plan': ('Plan', 'plan_recipe'),
    'composer_kd.convert': ('convert_cifar', 'convert_images', 'convert_text', 'write_mds'),
    'composer_kd.export': ('Exported', 'export_run'),
    'composer_kd.studies': ('StudySpec', 'Worker', 'load_study'),
    'composer_kd.report': ('PlainTable', 'Row', 'break_even', 'pareto', 'quality_table', 'read_rows', 'speedup'),
}
"""By module, its public names."""

WHOLE = frozenset({
    'composer_kd', 'composer_kd.losses', 'composer_kd.features', 'composer_kd.functional', 'composer_kd.models',
    'composer_kd.recipes', 'composer_kd.export',
})
"""Modules of which every name without an underscore is public."""

REGISTRIES: Mapping[str, str] = {
    'LOSSES': "Losses by name, and users' own.",
    'FEATURE_LOSSES': "Losses of features by name, and users' own.",
    'TEACHERS': "Kinds of teachers by name, and users' own.",
    'ALGORITHMS': "Composer's algorithms by name, and users' own.",
    'CALLBACKS': "Composer's callbacks by name, and users' own.",
    'LOGGERS': "Composer's loggers by name, and users' own.",
    'OPTIMIZERS': "torch's and Composer's optimizers by name, and users' own.",
    'SCHEDULERS': "Composer's schedulers by name, and users' own.",
    'MODELS': "Models of recipes by name, and users' own.",
    'DATA': "Data of recipes by name, and users' own.",
}
"""What is said of each registry, which has no docstring of its own."""


def public_names() -> list[tuple[str, str, Any]]:
    """Every public name: its module, the name, and what stands behind it.

    Example:
        >>> [(module, name) for module, name, _ in public_names()][0]
        ('composer_kd', 'Distillation')
    """
    return [(module, name, getattr(import_module(module), name)) for module, names in PUBLIC.items() for name in names]


def summary(name: str, item: Any) -> str:
    """The first sentence of what is said of a public name.

    Example:
        >>> from composer_kd.functional import kl_divergence
        >>> summary('kl_divergence', kl_divergence)[:10]
        'Forward KL'
    """
    said = REGISTRIES.get(name) or inspect.getdoc(item) or ''
    first = re.sub(r':\w+:`([^`]+)`', r'``\1``', ' '.join(said.strip().split('\n\n')[0].split()))
    return re.split(r'(?<=\.)(?<!al\.) (?=[A-Z])', first)[0]


def markdown() -> str:
    """The table of public names, as it stands in the README.

    Example:
        >>> markdown().splitlines()[0]
        '| name | |'
    """
    rows = ['| name | |', '|---|---|']
    rows += [f'| `{module}.{name}` | {summary(name, item)} |' for module, name, item in public_names()]
    return '\n'.join(rows).replace('``', '`')


if __name__ == '__main__':
    print(markdown())
