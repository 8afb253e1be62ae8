"""Models of Hugging Face's transformers, by name on the hub or from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from composer_kd.models.outside import told
from composer_kd.models.tokenizers import load_tokenizer, vocabulary_digest
from composer_kd.models.traits import Traits, class_names
from composer_kd.names import nearest
from composer_kd.teachers.kinds.downloads import first_then_all, refused_in
from composer_kd.teachers.kinds.registry import TEACHERS, Kind
from composer_kd.teachers.safe import safely

TASKS = {
    'masked_lm': ('AutoModelForMaskedLM', ('ForMaskedLM', 'ForPreTraining')),
    'causal_lm': ('AutoModelForCausalLM', ('ForCausalLM', 'LMHeadModel')),
    'classification': ('AutoModelForSequenceClassification', ('ForSequenceClassification',)),
    'image_classification': ('AutoModelForImageClassification', ('ForImageClassification',)),
}
"""By the name of the task: transformers' class, and how the architectures end that were trained for it."""

_NOT_THERE = ('no file named', 'does not appear to have a file')

DTYPES = ('auto', 'float32', 'bfloat16', 'float16')


def _config(source: str, revision: str | None, subfolder: str, where: str) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, revision=revision, subfolder=subfolder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        here = 'The folder holds none' if Path(source).is_dir() else 'There is no folder of that name'
        raise FileNotFoundError(
            f"{where}.hf: expected a model's folder or its name on the hub, got {source!r}. {here}, and asking the hub "
            f'for its configuration failed: {str(error).strip().splitlines()[0]}',
        ) from error


def _guessed(config: Any, where: str) -> str:
    names = list(getattr(config, 'architectures', None) or ())
    for task, (_, ends) in TASKS.items():
        if any(name.endswith(ends) for name in names):
            return task
    raise ValueError(
        f"{where}.task: the model's configuration names {', '.join(names) or 'no architecture'}, from which its task "
        f"cannot be told. Say it: {', '.join(TASKS)}.",
    )


def load_hugging_face(
    source: str, task: str | None = None, dtype: str = 'auto', revision: str | None = None, subfolder: str = '',
    safetensors: bool = True, *, where: str = 'teacher',
) -> nn.Module:
    """A model of transformers, with its tokenizer's vocabulary or its image processor's normalisation.

    No code that lies beside the weights is run.

    Args:
        source: A folder that ``save_pretrained`` wrote, or a name on the hub.
        task: ``'masked_lm'``, ``'causal_lm'``, ``'classification'`` (of texts) or ``'image_classification'``;
            ``None``: as the architecture in its configuration says.
        dtype: Of its weights: ``'float32'``, ``'bfloat16'``, ``'float16'``, or ``'auto'`` for the one they were saved
            in.
        revision: A branch, tag or commit on the hub.
        subfolder: In which folder of ``source`` it lies.
        safetensors: Whether its weights must be in safetensors; with ``False`` a ``pytorch_model.bin`` is read too, of
            which tensors alone are taken.
        where: What it is for, for messages.

    Returns:
        The model, on the CPU, in eval mode. It has ``traits``, and ``vocabulary`` where a tokenizer lies beside it.

    Raises:
        FileNotFoundError: If there is no such model, or its weights are not in safetensors.
        ValueError: If its task cannot be told, or its weights hold more than tensors or do not fit.
    """
    import transformers

    config = _config(source, revision, subfolder, where)
    chosen = _guessed(config, where) if task is None else task
    kind = getattr(transformers, TASKS[chosen][0])

    def make() -> tuple[nn.Module, dict[str, Any]]:
        try:
            with safely():
                made: tuple[nn.Module, dict[str, Any]] = kind.from_pretrained(
                    source, config=config, revision=revision, subfolder=subfolder, trust_remote_code=False,
                    use_safetensors=True if safetensors else None, output_loading_info=True,
                    torch_dtype='auto' if dtype == 'auto' else getattr(torch, dtype),
                )
        except OSError as error:
            if any(said in str(error) for said in _NOT_THERE):
                raise FileNotFoundError(str(error)) from error  # another try cannot change it
            raise
        return made

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # what it warns of is refused below
    try:
        model, info = first_then_all(make, source, not Path(source).is_dir())
    except Exception as error:  # what transformers raises is its to choose
        refused = refused_in(error)
        if refused is not None:
            raise ValueError(
                f'{where}.hf: the weights of {source} hold more than tensors ({refused}) and were not loaded, as that '
                'could run code of whoever made them. Save them as safetensors.',
            ) from error
        if isinstance(error, OSError) and safetensors:
            raise FileNotFoundError(
                f'{where}.hf: {source} has no weights in safetensors that could be read or fetched '
                f'({told(error)[:300]}). Save them so (save_pretrained does), or set safetensors: false to read '
                'tensors, and nothing else, out of pickled ones.',
            ) from error
        raise ValueError(f'{where}.hf: {source} cannot be loaded: {told(error)[:300]}') from error
    finally:
        transformers.logging.set_verbosity(level)
    missing, shapes = info.get('missing_keys') or (), info.get('mismatched_keys') or ()
    if missing or shapes:
        few = ', '.join(sorted(map(str, (*missing, *shapes)))[:5])
        raise ValueError(
            f'{where}.hf: {source} lacks {len(missing) + len(shapes)} of the weights of {type(model).__name__}: {few}. '
            'A teacher must have been trained for this task: choose another, or set task to what it was trained for.',
        )
    config.use_cache = False  # keys and values of an answer that nobody continues
    model.traits = _traits(model, chosen, source, revision, subfolder)  # type: ignore[assignment]
    if chosen != 'image_classification':
        words = _vocabulary(source, revision, subfolder)
        if words is not None:
            model.vocabulary = words  # type: ignore[assignment]
    return model.eval()


def _vocabulary(source: str, revision: str | None, subfolder: str) -> str | None:
    try:
        return vocabulary_digest(load_tokenizer(source, revision, subfolder))
    except ValueError:  # none lies beside it
        return None


def _traits(model: Any, task: str, source: str, revision: str | None, subfolder: str) -> Traits:
    labels = getattr(model.config, 'id2label', None) or {}
    if 'classification' not in task:
        return Traits()
    classes = class_names(labels[key] for key in sorted(labels, key=int))
    if task == 'classification':
        return Traits(classes=classes)
    from transformers.image_processing_utils import BaseImageProcessor

    try:
        said, _ = BaseImageProcessor.get_image_processor_dict(source, revision=revision, subfolder=subfolder)
    except OSError:  # none lies beside it
        return Traits(classes=classes)
    sides = said.get('crop_size') or said.get('size') or {}
    side = sides if isinstance(sides, int) else sides.get('height', sides.get('shortest_edge'))
    if not said.get('do_normalize', True):
        return Traits(resolution=side, classes=classes)
    mean, std = (tuple(said[key]) if said.get(key) else None for key in ('image_mean', 'image_std'))
    # its pixels are multiplied by this before, by 1/255 as a rule
    scale = float(said.get('rescale_factor', 1 / 255)) * 255
    if mean is None or std is None or not said.get('do_rescale', True):
        return Traits(resolution=side, classes=classes)
    return Traits(tuple(m / scale for m in mean), tuple(s / scale for s in std), side, classes)


def _check(
    source: str, where: str, task: str | None = None, dtype: str = 'auto', revision: str | None = None,
    subfolder: str = '', safetensors: bool = True,
) -> None:
    if task is not None and task not in TASKS:
        raise ValueError(f"{where}.task: expected one of {', '.join(TASKS)}, got {task!r}.{nearest(task, TASKS)}")
    if dtype not in DTYPES:
        raise ValueError(f"{where}.dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}.{nearest(dtype, DTYPES)}")
    for key, value in (('revision', revision), ('subfolder', subfolder)):
        if value is not None and not isinstance(value, str):
            raise TypeError(f'{where}.{key}: expected a string, got {type(value).__name__}: {value!r}.')
    if not isinstance(safetensors, bool):
        raise TypeError(f'{where}.safetensors: expected true or false, got {safetensors!r}.')
    folder = Path(source)
    if folder.is_dir() and not (folder / subfolder / 'config.json').is_file():
        raise FileNotFoundError(f"{where}.hf: there is no config.json in '{folder / subfolder}', so no model.")
    if not folder.is_dir() and (folder.is_absolute() or source.startswith('.') or source.count('/') > 1):
        raise FileNotFoundError(
            f"{where}.hf: there is no folder '{source}' (relative to {Path.cwd()}), and it is no name on the hub.",
        )


def _here(source: str, revision: str | None = None, subfolder: str = '', **_: Any) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if Path(source).is_dir():
        return True
    name = f'{subfolder}/config.json' if subfolder else 'config.json'
    return isinstance(try_to_load_from_cache(source, name, revision=revision), str)


def _architecture(
    source: str, task: str | None = None, revision: str | None = None, subfolder: str = '', **_: Any,
) -> nn.Module:
    import transformers

    config = _config(source, revision, subfolder, 'teacher')
    kind = getattr(transformers, TASKS[task or _guessed(config, 'teacher')][0])
    model: nn.Module = kind.from_config(config, trust_remote_code=False)
    return model


TEACHERS.register('hf')(
    Kind(load_hugging_face, 'a folder or a name on the hub', _check, _here, architecture=_architecture),
)
