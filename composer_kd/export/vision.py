"""Torchvision's models, in files that torchvision and timm load."""

from __future__ import annotations

import inspect
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer.models import ComposerModel
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models import get_model

from composer_kd.export.probe import TOLERANCE, EvaluationData, Probe
from composer_kd.export.written import WEIGHTS, Written, fill, refuse_difference, tensors
from composer_kd.models import torchvision_resnet
from composer_kd.names import split_named
from composer_kd.recipes import DATA, Recipe
from composer_kd.recipes.tasks.images.transforms import CIFAR_STATISTICS, IMAGENET_STATISTICS

_TIMM = (1, 0, 16)

_TORCHVISION = '''
import torch
from safetensors.torch import load_file
from torchvision.models import get_model

model = get_model({architecture!r}, num_classes={classes})
model.load_state_dict(load_file('model.safetensors'))
model.eval()
logits = model(torch.rand{shape})
'''
_FROM_TIMM = '''
import timm
import torch

model = timm.create_model('local-dir:.', pretrained=True).eval()
logits = model(torch.rand{shape})
'''


@dataclass(frozen=True)
class Preparation:
    """What is done to a picture before a model sees it.

    Attributes:
        mean: By channel, of pixels in 0 to 1.
        std: Standard deviation by channel.
        resize: Pixels of the shorter side before the middle is cut out; ``None`` where nothing is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: int | None


def preparation(data: EvaluationData) -> Preparation | None:
    """That of evaluation; ``None`` where it is not known."""
    defaults = {
        name: parameter.default for name, parameter in inspect.signature(DATA.get(data.name)).parameters.items()
    }
    said = {**defaults, **data.settings}
    if data.name == 'imagenet':
        return Preparation(*IMAGENET_STATISTICS, resize=None if data.train else said['resize_size'])
    if data.name == 'cifar':
        return Preparation(*CIFAR_STATISTICS[said['classes']], resize=None)
    return None


def write_torchvision(
    model: ComposerModel, recipe: Recipe, data: EvaluationData, probe: Probe, names: list[str], folder: Path,
) -> Written | None:
    """Write a model that torchvision builds.

    Args:
        model: The run's model, rewritten for evaluation.
        recipe: Of the run.
        data: What it was evaluated on.
        probe: What it has to compute.
        names: Of the classes, as far as they are known.
        folder: Where to write.

    Returns:
        What was written; ``None`` if torchvision builds no such model.

    Raises:
        RuntimeError: If what was written, loaded again, computes something else.
    """
    name, settings = split_named(recipe.model, 'model')
    if name != 'resnet':
        return None
    said = inspect.signature(torchvision_resnet).bind(**settings)
    said.apply_defaults()
    architecture, classes = said.arguments['architecture'], said.arguments['num_classes']
    plain = get_model(architecture, num_classes=classes)
    assert isinstance(model.module, nn.Module)
    if not fill(plain, model.module) or probe.difference(plain) > TOLERANCE:
        return None
    save_file(tensors(plain), folder / WEIGHTS, {'format': 'pt'})
    config = _timm_config(architecture, plain, data, probe, names)
    (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
    loaded = get_model(architecture, num_classes=classes)
    loaded.load_state_dict(load_file(folder / WEIGHTS))
    refuse_difference('torchvision', probe.difference(loaded.eval()), TOLERANCE)
    filled = {'architecture': architecture, 'classes': classes, 'shape': (1, *probe.inputs['images'].shape[1:])}
    return Written(
        architecture, ('torchvision', 'timm'), ('torchvision', *_tried_timm(folder, probe)),
        {
            'torchvision': _TORCHVISION.format(**filled),
            f"timm ({'.'.join(map(str, _TIMM))} or newer)": _FROM_TIMM.format(**filled),
        },
    )


def _timm_config(
    architecture: str, plain: Any, data: EvaluationData, probe: Probe, names: list[str],
) -> dict[str, Any]:
    size = list(probe.inputs['images'].shape[1:])
    prepared = preparation(data)
    pretrained: dict[str, Any] = {
        'num_classes': plain.fc.out_features, 'input_size': size, 'interpolation': 'bilinear', 'crop_mode': 'center',
        'crop_pct': 1.0, 'first_conv': 'conv1', 'classifier': 'fc',
    }
    if prepared is not None:
        pretrained |= {'mean': list(prepared.mean), 'std': list(prepared.std)}
        if prepared.resize is not None:
            pretrained['crop_pct'] = crop_share(size[1], prepared.resize)
    if names:
        pretrained['label_names'] = names
    return {
        'architecture': architecture, 'num_classes': plain.fc.out_features, 'num_features': plain.fc.in_features,
        'global_pool': 'avg', 'pretrained_cfg': pretrained,
    }


def crop_share(crop: int, resize: int) -> float:
    """The share for which timm, which rounds ``crop / share`` down, resizes to ``resize``.

    Example:
        >>> crop_share(224, 256)
        0.875
        >>> all(int(side / crop_share(side, side + more)) == side + more for side in (8, 32, 299) for more in range(99))
        True
    """
    share = crop / resize
    return share if int(crop / share) == resize else math.nextafter(share, 0)


def _tried_timm(folder: Path, probe: Probe) -> tuple[str, ...]:
    try:
        import timm
    except ImportError:
        return ()
    if tuple(int(part) for part in timm.__version__.split('.')[:3] if part.isdigit()) < _TIMM:
        return ()
    loaded = timm.create_model(f'local-dir:{folder}', pretrained=True)
    refuse_difference('timm', probe.difference(loaded.eval()), TOLERANCE)
    return ('timm',)
