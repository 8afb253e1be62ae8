"""Weights into an architecture, whatever prefixes the tool that saved them left on their names."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

_PREFIXES = ('', 'module.', 'model.', '_orig_mod.', 'module.module.', 'model.model.')
_SHOWN = 5

log = logging.getLogger(__name__)


def _few(names: set[str]) -> str:
    shown = ', '.join(sorted(names)[:_SHOWN])
    return f'{shown}, ...' if len(names) > _SHOWN else shown


def _targets(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    yield model
    for name in ('module', 'model'):  # what ComposerClassifier and HuggingFaceModel wrap
        inner = getattr(model, name, None)
        if isinstance(inner, torch.nn.Module):
            yield inner


def _tied(module: torch.nn.Module, names: set[str], given: set[str]) -> set[str]:
    """Those of ``names`` that share their memory with a parameter whose weights are given, as tied embeddings do."""
    state = module.state_dict(keep_vars=True)
    memory = {state[name].data_ptr() for name in given if name in state}
    return {name for name in names if state[name].data_ptr() in memory}


def _under(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix):]: value for name, value in weights.items() if name.startswith(prefix)}


def _part_of(
    model: torch.nn.Module, weights: Mapping[str, Tensor], where: str, source: str,
) -> dict[str, Tensor] | None:
    """Of weights of several models under prefixes of their own, those that are this model's; ``None`` if none are."""
    found: dict[str, dict[str, Tensor]] = {}
    for target in _targets(model):
        own = target.state_dict()
        first = min(own, key=len, default='')
        for name in weights:
            prefix = name.removesuffix(first)
            if not first or prefix == name or not prefix.endswith('.') or prefix in found:
                continue
            part = _under(prefix, weights)
            missing = set(own) - set(part)
            same = not set(part) - set(own) and not missing - _tied(target, missing, set(part))
            if same and all(part[key].shape == own[key].shape for key in part):
                found[prefix] = part
    # the model's own weights lie below those of what wraps it
    shortest = {prefix: part for prefix, part in found.items() if not any(
        other != prefix and prefix.startswith(other) for other in found
    )}
    if len(shortest) > 1:
        raise ValueError(
            f"{where}: {source} holds several models that fit the architecture, under "
            f"{', '.join(map(repr, shortest))}. Say which one teaches: prefix: NAME.",
        )
    for prefix, part in shortest.items():
        log.warning(
            "%s: of the %d weights in %s the %d under '%s' are taken; the others are not this model's.", where,
            len(weights), source, len(part), prefix,
        )
        return part
    return None


def load_weights(
    model: torch.nn.Module, weights: Mapping[str, Tensor], where: str, source: str, prefix: str | None = None,
) -> None:
    """Load ``weights`` into ``model`` in place; every name and shape must fit.

    Prefixes left by wrappers (``module.``, ``model.``, ``_orig_mod.``) are taken off or put on as needed, and tied
    parameters may be stored once. Where a checkpoint holds the weights of several models, those under the one prefix
    that fit are taken, and that is said.

    Args:
        model: The architecture; a parameter on the meta device is replaced.
        weights: Names to tensors.
        where: What this is for, for messages.
        source: Where the weights come from, for messages.
        prefix: What the model's names begin with in ``weights``; others are passed over. ``None``: found out.

    Raises:
        ValueError: Naming the first few missing and unexpected names, or the first few shapes that differ; or the
            prefixes, where several fit.
    """
    if prefix is not None:
        part = _under(prefix, weights)
        if not part:
            starts = {name.split('.')[0] + '.' for name in weights if '.' in name}
            raise ValueError(
                f"{where}.prefix: no name in {source} begins with '{prefix}'; they begin with {_few(starts)}.",
            )
        weights = part
    fits: list[tuple[int, int, int, torch.nn.Module, dict[str, Tensor]]] = []
    for depth, target in enumerate(_targets(model)):
        expected = set(target.state_dict())
        for order, wrapped in enumerate(_PREFIXES):
            if wrapped and not all(name.startswith(wrapped) for name in weights):
                continue
            renamed = {name[len(wrapped):]: value for name, value in weights.items()}
            wrong = len(expected ^ set(renamed))
            fits.append((wrong, depth, order, target, renamed))
    _, _, _, target, renamed = min(fits, key=lambda fit: fit[:3])
    own = target.state_dict()
    missing, unexpected = set(own) - set(renamed), set(renamed) - set(own)
    missing -= _tied(target, missing, set(renamed))
    if missing and unexpected and prefix is None:
        own_part = _part_of(model, weights, where, source)
        if own_part is not None:
            load_weights(model, own_part, where, source, '')
            return
    if missing or unexpected:
        parts = [f'missing {len(missing)}: {_few(missing)}'] if missing else []
        parts += [f'unexpected {len(unexpected)}: {_few(unexpected)}'] if unexpected else []
        raise ValueError(
            f'{where}: the weights in {source} do not fit the architecture ({type(target).__name__}): '
            f"{'; '.join(parts)}. Give the architecture they were made with: {{run: FOLDER}} knows it, or set 'model' "
            "(and 'algorithms', where some rewrote that model) beside 'checkpoint'; where it holds several models, set "
            "'prefix' to what this one's names begin with.",
        )
    shapes = {name: (tuple(renamed[name].shape), tuple(own[name].shape)) for name in renamed
              if renamed[name].shape != own[name].shape}
    if shapes:
        first = '; '.join(f'{name} is {a} there and {b} here' for name, (a, b) in list(shapes.items())[:_SHOWN])
        raise ValueError(
            f'{where}: {len(shapes)} weights in {source} have other shapes than the architecture has: {first}. A '
            "different width, number of classes or vocabulary? Set 'model' to what the weights were made with.",
        )
    meta = any(p.is_meta for p in target.parameters())
    target.load_state_dict(renamed, strict=False, assign=meta)
