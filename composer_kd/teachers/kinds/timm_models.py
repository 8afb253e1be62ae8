"""Image classifiers of timm, with what timm says of their inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from composer_kd.models.outside import told
from composer_kd.models.traits import Traits, class_names
from composer_kd.names import nearest
from composer_kd.teachers.fetch import is_remote
from composer_kd.teachers.fitting import load_weights
from composer_kd.teachers.kinds.downloads import first_then_all, refused_in
from composer_kd.teachers.kinds.registry import TEACHERS, Kind
from composer_kd.teachers.safe import safely
from composer_kd.teachers.weights import read_weights

_HUB = ('hf-hub:', 'hf_hub:', 'local-dir:')


def _timm(where: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise ValueError(
            f"{where}.timm: the package timm is not installed. Install it: pip install 'composer_kd[timm]'.",
        ) from error
    return timm


def load_timm(
    source: str, pretrained: bool | str = True, num_classes: int | None = None, in_chans: int | None = None,
    img_size: int | None = None, *, where: str = 'teacher',
) -> nn.Module:
    """One of timm's models.

    Args:
        source: Its name among ``timm.list_models()``, with the tag of its weights if need be
            (``'resnet18.a1_in1k'``), or ``'hf-hub:NAME'``.
        pretrained: ``True`` for the published weights, which are downloaded once a machine; a path or URI for weights
            of a file, which is read as a checkpoint is; ``False`` for none.
        num_classes: How many classes; default: as published.
        in_chans: How many channels its images have; default: 3.
        img_size: The side of its images in pixels, for models that are made for one size; default: as published.
        where: What it is for, for messages.

    Returns:
        The model, on the CPU; its ``traits`` are what timm says of its images.

    Raises:
        FileNotFoundError: If its weights cannot be downloaded, or are not at the path.
        ValueError: If timm is not installed, refuses the settings, or the weights are no weights alone or do not fit.

    Example:
        >>> model = load_timm('resnet18', pretrained=False, num_classes=4)
        >>> model.num_classes, model.traits.resolution
        (4, 224)
    """
    timm = _timm(where)
    settings = {
        key: value for key, value in (('num_classes', num_classes), ('in_chans', in_chans), ('img_size', img_size))
        if value is not None
    }

    def make() -> nn.Module:
        with safely():
            made: nn.Module = timm.create_model(source, pretrained=pretrained is True, **settings)
        return made

    try:
        model = first_then_all(make, source, pretrained is True)
    except (TypeError, KeyError, AssertionError) as error:
        raise ValueError(f'{where}.timm: timm refuses {source} with {settings}: {told(error)}') from error
    except Exception as error:
        refused = refused_in(error)
        if refused is not None:
            raise ValueError(
                f'{where}.timm: the published weights of {source} hold more than tensors ({refused}), so they were not '
                'loaded. Choose weights that are published as safetensors.',
            ) from error
        if pretrained is not True or isinstance(error, ValueError):
            raise ValueError(f'{where}.timm: timm cannot make {source} with {settings}: {told(error)}') from error
        raise FileNotFoundError(
            f'{where}.timm: the weights of {source} are not on this machine and could not be downloaded '
            f'({told(error)}). Fetch them on a machine with network and give their file: pretrained: FILE.',
        ) from error
    if isinstance(pretrained, str):
        load_weights(model, read_weights(pretrained), where, pretrained)
    config = timm.data.resolve_model_data_config(model)
    published = (getattr(model, 'pretrained_cfg', None) or {}).get('label_names')
    # of other channels than it was published for, the statistics are nobody's
    whose = in_chans in (None, len(config['mean']))
    model.traits = Traits(  # type: ignore[assignment]
        tuple(config['mean']) if whose else None, tuple(config['std']) if whose else None,
        int(config['input_size'][-1]),
        class_names(published) if num_classes in (None, len(published or ())) else None,
    )
    return model.eval()


def _check(
    source: str, where: str, pretrained: bool | str = True, num_classes: int | None = None,
    in_chans: int | None = None, img_size: int | None = None,
) -> None:
    for key, value in (('num_classes', num_classes), ('in_chans', in_chans), ('img_size', img_size)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f'{where}.{key}: expected a whole number of 1 or more, got {value!r}.')
    if not isinstance(pretrained, (bool, str)):
        raise TypeError(f'{where}.pretrained: expected true, false or the path of weights, got {pretrained!r}.')
    if isinstance(pretrained, str) and not is_remote(pretrained) and not Path(pretrained).exists():
        raise FileNotFoundError(
            f"{where}.pretrained: there is nothing at '{pretrained}'. Give true, false, or the path or URI of weights, "
            f'relative to {Path.cwd()}.',
        )
    timm = _timm(where)
    if source.startswith(_HUB):
        return
    architecture, _, tag = source.partition('.')
    if not timm.is_model(architecture):
        known = timm.list_models()
        raise ValueError(
            f'{where}.timm: unknown model {source!r}.{nearest(architecture, known)} Known are the {len(known)} of '
            'timm.list_models().',
        )
    tags = [name.partition('.')[2] for name in timm.list_pretrained(f'{architecture}.*')]
    if tag and tag not in tags:
        raise ValueError(
            f"{where}.timm: unknown weights {tag!r} of {architecture}.{nearest(tag, tags)} Known: "
            f"{', '.join(tags) or 'none'}.",
        )
    if pretrained is True and not tags:
        raise ValueError(
            f'{where}.timm: there are no published weights of {architecture}. Give those of a file: pretrained: FILE.',
        )


def _here(source: str, pretrained: bool | str = True, **_: Any) -> bool:
    return pretrained is False or (isinstance(pretrained, str) and not is_remote(pretrained))


def _outputs(source: str, num_classes: int | None = None, **_: Any) -> int | None:
    return num_classes


def _architecture(source: str, pretrained: bool | str = True, **settings: Any) -> nn.Module:
    model: nn.Module = _timm('teacher').create_model(source, pretrained=False, **settings)
    return model


TEACHERS.register('timm')(
    Kind(load_timm, "timm's name of a model", _check, _here, _outputs, architecture=_architecture),
)
