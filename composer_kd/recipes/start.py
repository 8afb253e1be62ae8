"""The weights that a training begins with, where they are not freshly drawn."""

from __future__ import annotations

import fnmatch
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from composer.models import ComposerModel
from composer.utils import dist, get_device
from torch import Tensor

from composer_kd.models import load_tokenizer, vocabulary_digest
from composer_kd.recipes.schema import Recipe, StartSpec
from composer_kd.runs import RunFolder
from composer_kd.teachers import read_weights

log = logging.getLogger(__name__)

_WRAPPERS = ('', 'module.', 'model.', '_orig_mod.', 'module.module.', 'model.model.')
# What Hugging Face renames when it reads the checkpoints of the first BERTs.
_OLD_NAMES = {'.gamma': '.weight', '.beta': '.bias'}
_SHOWN = 5


@dataclass(frozen=True)
class _Fit:
    """One way to lay the source's names beside the model's: names to tensors of both, without what wrappers add."""

    prefix: str
    own: dict[str, Tensor]
    given: dict[str, Tensor]

    @property
    def shared(self) -> list[str]:
        return [name for name in self.own if name in self.given]


def start(model: ComposerModel, recipe: Recipe) -> None:
    """Give a freshly built model the weights that ``start_from`` names, in place.

    A parameter or buffer takes the source's value where name and shape are the same, whatever prefixes wrappers left on
    the names. What only the source has is dropped, what only the model has stays as it was drawn; both are logged.

    Args:
        model: The model.
        recipe: The recipe; without ``start_from``, or where the run goes on from its own checkpoint, nothing is done.

    Raises:
        FileNotFoundError: If there is no such run or checkpoint.
        ValueError: For weights that cannot be read or are not finite, a shape that differs, another vocabulary, a
            pattern of ``fresh`` that fits no parameter, or weights that make up less than half of the model.
    """
    spec = recipe.start_from
    if spec is None or _goes_on(recipe):
        return
    if dist.get_world_size() > 1:
        dist.initialize_dist(get_device(recipe.device), recipe.dist_timeout)  # ranks of a node read the file together
    where, source = ('start_from.run', spec.run) if spec.run is not None else ('start_from.checkpoint', spec.checkpoint)
    assert source is not None
    if spec.run is not None and Path(spec.run).resolve() == Path(recipe.run_folder).resolve():
        raise ValueError(
            f'{where}: {spec.run!r} is the folder this run itself is written to. Give the run another run_name or '
            'run_folder, or another run to start from.',
        )
    try:
        if spec.run is not None:
            folder = RunFolder(spec.run)
            _check_vocabulary(model, recipe, folder)
            source = str(folder.latest_checkpoint())
            if not _finished(folder):
                warnings.warn(
                    f"start_from.run: the run in '{folder.path}' did not finish; its latest checkpoint is taken.",
                    stacklevel=2,
                )
        weights = read_weights(source)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{where}: {error}') from error
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from error
    _take(model, weights, spec, where, source)


def _goes_on(recipe: Recipe) -> bool:
    """Whether the run has a checkpoint of its own to go on from, which replaces all weights anyway."""
    if not recipe.autoresume or recipe.overwrite:
        return False
    try:
        return RunFolder(recipe.run_folder).latest_checkpoint().exists()
    except (FileNotFoundError, ValueError):
        return False


def _finished(folder: RunFolder) -> bool:
    try:
        return folder.read_record().status == 'finished'
    except (FileNotFoundError, ValueError):
        return True  # nobody knows: weights that were put there by hand have no record


def _check_vocabulary(model: ComposerModel, recipe: Recipe, folder: RunFolder) -> None:
    theirs = folder.read_recipe().get('model')
    name = theirs.get('tokenizer') if isinstance(theirs, Mapping) else None
    # A name on the hub is the same one everywhere; what lies in a folder may have been replaced.
    if name is None or (name == recipe.model.get('tokenizer') and not Path(name).is_dir()):
        return
    try:
        words = vocabulary_digest(load_tokenizer(str(name)))
    except ValueError:
        log.warning('The tokenizer %r of the run in %s is gone; nobody can tell whether its words are the same.',
                    name, folder.path)
        return
    own = getattr(model, 'vocabulary', None)
    if own is not None and words != own:
        raise ValueError(
            f"the run in '{folder.path}' was made with the tokenizer {name!r}, which numbers words otherwise than this "
            "model's, so its embeddings would mean nothing here. Set model.tokenizer and the data's to that one.",
        )


def _targets(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """The model, what Composer wraps, and of a Hugging Face model the part without its head."""
    yield model
    for name in ('module', 'model'):
        inner = getattr(model, name, None)
        if isinstance(inner, torch.nn.Module):
            yield inner
            base = getattr(inner, getattr(inner, 'base_model_prefix', None) or ' ', None)
            if isinstance(base, torch.nn.Module):
                yield base


def _renamed(name: str, own: Mapping[str, Tensor]) -> str:
    for old, new in _OLD_NAMES.items():
        if name.endswith(old) and name not in own:
            return name.removesuffix(old) + new
    return name


def _best_fit(model: ComposerModel, weights: Mapping[str, Tensor]) -> _Fit:
    places = {module: name for name, module in model.named_modules()}
    fits = []
    for target in _targets(model):
        own = target.state_dict()
        for prefix in _WRAPPERS:
            if all(name.startswith(prefix) for name in weights):
                given = {_renamed(name[len(prefix):], own): value for name, value in weights.items()}
                fits.append(_Fit(f'{places[target]}.' if places[target] else '', own, given))
    # Of those that share as much, the first: the order above goes from the outside in.
    return max(fits, key=lambda fit: len(fit.shared))


def _covered(name: str, pattern: str) -> bool:
    """Whether a pattern names it, from the outside (as state dicts do) or as the wrapped model itself does."""
    names = (name, name.removeprefix('module.'), name.removeprefix('model.'))
    return any(fnmatch.fnmatchcase(name, pattern) or name.startswith(f'{pattern}.') for name in names)


def _few(names: Collection[str]) -> str:
    shown = ', '.join(sorted(names)[:_SHOWN])
    return f'{shown}, ... ({len(names)} in all)' if len(names) > _SHOWN else shown or 'none'


def _no_holes(
    names: Sequence[str], taken: Collection[str], fresh: Sequence[str], where: str, source: str,
) -> None:
    """Refuse a model that would have drawn weights between taken ones: a head that stays fresh comes last."""
    last = max((place for place, name in enumerate(names) if name in taken), default=0)
    holes = [name for name in names[:last] if name not in taken and not any(_covered(name, p) for p in fresh)]
    if holes:
        raise ValueError(
            f'{where}: {len(holes)} parameters in the middle of the model are not in {source}: {_few(holes)}. Another '
            'architecture, or was that run rewritten by algorithms (blurpool, squeeze_excite) and this model not? Give '
            'other weights, or name in start_from.fresh what is to be drawn.',
        )


def _take(model: ComposerModel, weights: Mapping[str, Tensor], spec: StartSpec, where: str, source: str) -> None:
    fit = _best_fit(model, weights)
    parameters = dict(model.named_parameters())
    for index, pattern in enumerate(spec.fresh):
        if not any(_covered(name, pattern) for name in parameters):
            raise ValueError(
                f'start_from.fresh[{index}]: {pattern!r} fits no parameter of the model. Give the beginning of a '
                f"dotted name, such as 'classifier', or a pattern with *. It has {_few(parameters)}.",
            )
    taken = [name for name in fit.shared if not any(_covered(fit.prefix + name, pattern) for pattern in spec.fresh)]
    shapes = [
        f'{fit.prefix}{name} is {tuple(fit.given[name].shape)} there and {tuple(fit.own[name].shape)} here'
        for name in taken if fit.given[name].shape != fit.own[name].shape
    ]
    if shapes:
        raise ValueError(
            f'{where}: {len(shapes)} of the weights in {source} have another shape than the model has: '
            f"{'; '.join(shapes[:_SHOWN])}. Give the model the same sizes, or say what is to be drawn afresh, as in "
            'start_from.fresh=[classifier].',
        )
    broken = [name for name in taken if not bool(torch.isfinite(fit.given[name]).all())]
    if broken:
        raise ValueError(
            f'{where}: weights in {source} are not finite ({_few(broken)}); that training had diverged. Give an '
            'earlier checkpoint, or another run.',
        )
    # Tied parameters have one name here and two in state dicts.
    count = sum(parameters[fit.prefix + name].numel() for name in taken if fit.prefix + name in parameters)
    whole = sum(parameter.numel() for parameter in parameters.values())
    counts = f'{count:,} of {whole:,} parameters ({100 * count / whole:.1f} %)'
    left = (
        f'only there: {_few(set(fit.given) - set(fit.own))}; only here, or fresh: {_few(set(fit.own) - set(taken))}'
    )
    if 2 * count < whole:
        raise ValueError(
            f'{where}: the model finds {counts} in {source}, less than half; {left}. Give weights of this '
            'architecture, with the same layers.',
        )
    _no_holes(list(parameters), {fit.prefix + name for name in taken}, spec.fresh, where, source)
    with torch.no_grad():
        for name in taken:
            fit.own[name].copy_(fit.given[name])
    log.info('Starting from %s with %s; %s.', source, counts, left)
