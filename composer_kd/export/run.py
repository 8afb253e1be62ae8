"""From a run folder to a folder that other libraries load."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from composer.models import ComposerModel, HuggingFaceModel

from composer_kd.export.card import card, class_names, quality_of
from composer_kd.export.evaluating import for_evaluation
from composer_kd.export.folder import new_folder, refuse_traces
from composer_kd.export.probe import EvaluationData, Probe, evaluation_data, probe
from composer_kd.export.program import write_program
from composer_kd.export.text import write_transformers
from composer_kd.export.vision import write_torchvision
from composer_kd.export.written import Written
from composer_kd.names import split_named
from composer_kd.recipes import Recipe, parse_recipe
from composer_kd.runs import Record, RunFolder
from composer_kd.teachers import model_of_run, read_weights
from composer_kd.teachers.fitting import load_weights

# Tokens of a text that a model and its copy are compared on; any number would do.
_TOKENS = 16


@dataclass(frozen=True)
class Exported:
    """An export.

    Attributes:
        path: The folder.
        title: What the model is.
        libraries: That load it.
        tried: Those of them that loaded it here, with the outputs of the run's model.
        checkpoint: Where the weights come from.
        status: Of the run: ``finished``, ``unfinished``, or ``unknown`` without a record.

    Example:
        >>> made = Exported(Path('out'), 'a digits_resnet', ('torch',), ('torch',), 'ep1-ba9-rank0.pt', 'finished')
        >>> made.tried == made.libraries
        True
    """

    path: Path
    title: str
    libraries: tuple[str, ...]
    tried: tuple[str, ...]
    checkpoint: str
    status: str


def export_run(
    run: str | os.PathLike[str], to: str | os.PathLike[str], *, checkpoint: str | None = None, overwrite: bool = False,
) -> Exported:
    """Write the model of a run so that other libraries load it, with no trace of this one.

    A torchvision architecture becomes weights under torchvision's names and a configuration for timm; a Hugging Face
    model what its own class in transformers saves, with the tokenizer; anything else (an architecture of no library,
    or one that algorithms rewrote) a ``torch.export`` program, which torch runs without the model's code. Each is
    loaded again and compared with the run's model on random inputs. Beside it: a model card, and digests of the files.

    Args:
        run: The run folder.
        to: The folder to make; missing or empty.
        checkpoint: Another checkpoint of that run than its latest, as :func:`composer_kd.teachers.read_weights` reads
            it. Averages of EMA or SWA are taken where a checkpoint has them.
        overwrite: Replace what an earlier export wrote to ``to``, if nothing else is in it.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: For a missing run or checkpoint.
        ValueError: For a folder that is no run, weights that do not fit, or a place that cannot be written or holds
            what would be lost.
        RuntimeError: If what was written computes something else, or names where it comes from; nothing is left then.

    Example:
        >>> import tempfile
        >>> from composer_kd.models import build_model
        >>> model = {'name': 'digits_resnet', 'width': 4}
        >>> with tempfile.TemporaryDirectory() as place:
        ...     folder = RunFolder(f'{place}/run')
        ...     folder.write_recipe({'run_name': 'a', 'model': model, 'train_data': {'name': 'digits', 'batch_size': 8},
        ...                          'optimizer': 'adam', 'max_duration': '1ep'})
        ...     folder.checkpoints.mkdir()
        ...     torch.save(build_model(model).state_dict(), folder.checkpoints / 'ep1-ba9-rank0.pt')
        ...     made = export_run(folder.path, f'{place}/out')
        ...     sorted(path.name for path in made.path.iterdir())
        ['README.md', 'SHA256SUMS', 'model.pt2', 'model.safetensors']
    """
    folder, target = RunFolder(run), Path(os.path.realpath(to))
    recipe = parse_recipe(folder.read_recipe())
    # Building a model draws its initial weights; the caller's generators need not notice.
    with new_folder(target, overwrite) as out, torch.random.fork_rng(devices=[]):
        model = model_of_run(str(run))
        source = checkpoint or str(folder.latest_checkpoint())
        if checkpoint is not None:
            load_weights(model, read_weights(checkpoint), f'run {run}', checkpoint)
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        record = _record(folder)
        data = evaluation_data(recipe)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        written, asked, names = _write(model, recipe, data, out)
        quality = quality_of(record, source, latest=checkpoint is None)
        text = card(written, recipe, data, asked, names, parameters, quality)
        (out / 'README.md').write_text(text, encoding='utf-8')
        refuse_traces(out, folder.path)
    status = record.status if record is not None else 'unknown'
    return Exported(Path(to), written.title, written.libraries, written.tried, source, status)


def _record(folder: RunFolder) -> Record | None:
    try:
        return folder.read_record()
    except (FileNotFoundError, ValueError):
        return None  # the one who reads the model has said so


def _write(
    model: ComposerModel, recipe: Recipe, data: EvaluationData, out: Path,
) -> tuple[Written, Probe, list[str]]:
    """Write a model in the first way that is its own."""
    if isinstance(model, HuggingFaceModel):
        asked = probe(model, data, min(_TOKENS, getattr(model.config, 'max_position_embeddings', _TOKENS)))
        names = class_names(recipe, asked.expected.shape[-1])
        written = write_transformers(model, asked, names, out)
        if written is not None:
            return written, asked, names
    asked = probe(model, data)
    names = class_names(recipe, asked.expected.shape[-1])
    for_evaluation(model)
    written = None if isinstance(model, HuggingFaceModel) else write_torchvision(model, recipe, data, asked, names, out)
    return written or write_program(model, _described(recipe), asked, out), asked, names


def _described(recipe: Recipe) -> str:
    name, settings = split_named(recipe.model, 'model')
    # Sizes and the architecture; paths are nobody's business.
    told = [
        f'{key} {value}' for key, value in settings.items() if isinstance(value, (int, float)) or key == 'architecture'
    ]
    return f"{name} ({', '.join(told)})" if told else name
