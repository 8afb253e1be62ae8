"""The teachers that need nobody else's library: earlier runs, checkpoints, torchvision's models, modules, answers."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from composer.models import ComposerModel
from torch import nn
from torchvision.models import WeightsEnum, get_model

from composer_kd.models import build_model
from composer_kd.models.published import classes_of, file_of, load_published, published_weights
from composer_kd.models.surgery import apply_surgery
from composer_kd.models.traits import Traits, class_names
from composer_kd.runs import RunFolder
from composer_kd.teachers.fetch import is_remote
from composer_kd.teachers.fitting import load_weights
from composer_kd.teachers.kinds.registry import TEACHERS, Kind
from composer_kd.teachers.weights import read_weights

log = logging.getLogger(__name__)


def model_of_run(path: str) -> ComposerModel:
    """The model of an earlier run: its architecture, rewritten as its algorithms rewrote it, with its latest weights.

    Args:
        path: The run folder.

    Returns:
        The model on the CPU, in eval mode. It evaluates to the quality the run recorded at its latest checkpoint.

    Raises:
        FileNotFoundError: If there is no such folder or no checkpoint in it.
        ValueError: If the folder holds no run, or its weights do not fit its recipe.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = RunFolder(f'{place}/a')
        ...     folder.write_recipe({'model': {'name': 'digits_resnet', 'width': 4}})
        ...     folder.checkpoints.mkdir()
        ...     torch.save(build_model({'name': 'digits_resnet', 'width': 4}).state_dict(),
        ...                folder.checkpoints / 'ep1-ba9-rank0.pt')
        ...     model_of_run(folder.path).training
        False
    """
    folder = RunFolder(path)
    recipe = folder.read_recipe()
    if not isinstance(recipe.get('model'), Mapping):
        raise ValueError(f'{folder.recipe_path} names no model, so the architecture of this run is not known.')
    # What a run started from need not be downloaded to be overwritten.
    said = recipe['model']
    architecture = {key: said[key] for key in said if (said.get('name'), key) != ('resnet', 'weights')}
    model = apply_surgery(build_model(architecture, f'{folder.recipe_path}: model'), recipe.get('algorithms') or {})
    checkpoint = str(folder.latest_checkpoint())
    load_weights(model, read_weights(checkpoint), f'run {path}', checkpoint)
    try:
        if folder.read_record().status != 'finished':
            log.warning('The run in %s did not finish; its latest checkpoint (%s) is taken.', path, checkpoint)
    except (FileNotFoundError, ValueError) as error:
        log.warning('The run in %s has no readable record; its checkpoint %s is taken. (%s)', path, checkpoint, error)
    return model.eval()


def _run(source: str) -> nn.Module:
    return model_of_run(source)


def _check_run(source: str, where: str) -> None:
    if is_remote(source):
        raise ValueError(
            f"{where}.run: expected the folder of an earlier run, got '{source}'. A run folder is read where it lies; "
            f"of what lies elsewhere give the checkpoint: {{checkpoint: '{source}'}}.",
        )
    folder = RunFolder(source)
    try:
        folder.read_recipe()
        folder.latest_checkpoint()
    except (FileNotFoundError, ValueError) as error:
        raise type(error)(f'{where}.run: {error}') from error


def load_checkpoint(
    source: str, model: Mapping[str, Any] | str | None = None, algorithms: Mapping[str, Any] | None = None,
    prefix: str | None = None, *, where: str, student: ComposerModel,
) -> nn.Module:
    """Weights in an architecture.

    Args:
        source: A path or URI, as of :func:`composer_kd.teachers.read_weights`.
        model: The architecture, by its name and settings; ``None`` for the student's own.
        algorithms: What rewrote that architecture.
        prefix: What stands before the names of the model's weights in a checkpoint that holds others too; ``None``:
            found out where only one would do.
        where: What it is for, for messages.
        student: The student after the other algorithms' surgery.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it cannot be read, or does not fit the architecture.
    """
    if model is None:
        module: nn.Module = copy.deepcopy(student)
    else:
        module = apply_surgery(build_model(model, f'{where}.model'), algorithms or {})
    load_weights(module, read_weights(source), where, source, prefix)
    return module


def _check_checkpoint(
    source: str, where: str, model: Any = None, algorithms: Any = None, prefix: str | None = None,
) -> None:
    if prefix is not None and (not isinstance(prefix, str) or not prefix):
        raise ValueError(f"{where}.prefix: expected the start of the weights' names, such as 'net.', got {prefix!r}.")
    if algorithms and not model:
        raise ValueError(
            f"{where}.algorithms: names what rewrote the architecture in 'model', and there is no 'model'. Without one "
            "the student's own architecture is taken as it stands after its own algorithms; leave both or give both.",
        )
    if not is_remote(source) and not os.path.exists(source):
        raise FileNotFoundError(
            f'{where}.checkpoint: there is nothing at {source}. Give the path of a checkpoint, relative to '
            f'{Path.cwd()}, or a URI.',
        )


def _weights(source: str, weights: str = 'DEFAULT', where: str = 'teacher') -> WeightsEnum:
    if not isinstance(weights, str):
        raise TypeError(f"{where}.weights: expected a name such as 'IMAGENET1K_V2', got {weights!r}.")
    try:
        return published_weights(source, weights)
    except ValueError as error:
        key = 'weights' if str(error).startswith('unknown weights') else 'torchvision'
        raise ValueError(f'{where}.{key}: {error}') from None


def load_torchvision(source: str, weights: str = 'DEFAULT', *, where: str) -> nn.Module:
    """A classification model of torchvision with published weights, and what torchvision says of its images.

    Args:
        source: Torchvision's name of the model.
        weights: Torchvision's name of its weights; ``'DEFAULT'`` for the best.
        where: What it is for, for messages.

    Raises:
        FileNotFoundError: If the weights cannot be downloaded.
        ValueError: If the file is broken or holds others.
    """
    entry = _weights(source, weights, where)
    model = load_published(source, entry, where)
    seen: Any = entry.transforms()
    crop = getattr(seen, 'crop_size', None)
    model.traits = Traits(  # type: ignore[assignment]
        tuple(seen.mean), tuple(seen.std), int(crop[0]) if crop else None, class_names(entry.meta['categories']),
    )
    return model


def _module(source: nn.Module) -> nn.Module:
    return source


def _answers(source: str) -> nn.Module:
    raise ValueError(f'teachers: {source} holds answers, and no model.')


TEACHERS.register('run')(Kind(_run, 'a path or URI', _check_run))
TEACHERS.register('checkpoint')(
    Kind(load_checkpoint, 'a path or URI', _check_checkpoint, lambda source, **_: not is_remote(source)),
)
TEACHERS.register('torchvision')(Kind(
    load_torchvision, "torchvision's name of a classification model",
    lambda source, where, weights='DEFAULT': (_weights(source, weights, where), None)[1],
    lambda source, weights='DEFAULT': file_of(_weights(source, weights)).exists(),
    lambda source, weights='DEFAULT': classes_of(_weights(source, weights)),
    told=lambda source, weights='DEFAULT': f'{source}/{_weights(source, weights).name}',
    architecture=lambda source, weights='DEFAULT': get_model(source, weights=None),
))
TEACHERS.register('module')(Kind(_module, source=torch.nn.Module))
TEACHERS.register('cache')(Kind(_answers, 'a path or URI', here=lambda source: not is_remote(source)))
