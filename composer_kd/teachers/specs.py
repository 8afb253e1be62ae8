"""What a user may write for ``teachers``, read and checked."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from composer.models import ComposerModel
from torchvision.models import WeightsEnum

from composer_kd.answers.manifest import NAME
from composer_kd.models.published import file_of, published_weights
from composer_kd.names import check_keys
from composer_kd.runs import RunFolder
from composer_kd.teachers.fetch import is_remote
from composer_kd.teachers.preparing import Prepare, read_prepare

_LIVE = {'name', 'weight', 'logits_key', 'digest', 'cache', 'prepare'}
_SOURCES = {
    'run': _LIVE,
    'checkpoint': {*_LIVE, 'model', 'algorithms'},
    'torchvision': {*_LIVE, 'weights'},
    'module': _LIVE,
    'cache': {'name', 'weight', 'digest'},
}
_EXPECTED = {'torchvision': "torchvision's name of a classification model"}


@dataclass(frozen=True)
class CacheSpec:
    """Where a teacher's answers are stored.

    Attributes:
        path: A folder, or a URI to read from.
        fill: Whether answers that are not there yet are written down as they are asked for.
        form: How they are written, as :meth:`composer_kd.answers.Format.read` takes it; of a store that is there
            already, its own.
        local: Where the shards of a store that is complete are fetched to as they are asked for; ``None`` for reading
            them where they are or, of a URI, for a folder of the machine's own.
    """

    path: str
    fill: bool = False
    form: Any = None
    local: str | None = None


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher as the user asked for it.

    Attributes:
        kind: ``'run'``, ``'checkpoint'``, ``'torchvision'``, ``'module'`` or ``'cache'`` (stored answers alone).
        source: The folder, the path or URI, torchvision's name of the architecture, or the module itself.
        name: Its name in logs and records, unique among the teachers.
        weight: Its share: of the average where all teachers or teachers in turn answer, of the draws where they are
            drawn at random. Above zero.
        model: For a checkpoint, the architecture (``{name: ..., **settings}``); ``None`` for the student's own.
        algorithms: For a checkpoint with ``model``, the algorithms that rewrote that architecture.
        logits_key: Where its logits are in its outputs; ``None`` for where the student's are.
        origin: Kind and source as plain text.
        weights: For ``'torchvision'``, the published weights.
        index: Its place among the teachers.
        digest: The first hexadecimal digits, 8 or more, of the digest that it must have; ``None`` for any.
        cache: Where its answers are stored, if anywhere.
        compared: Whether its logits are compared with the student's, so that both need the same classes.
        prepare: How it is prepared for inference; ``None`` for as all are.
    """

    kind: str
    source: Any
    name: str
    weight: float = 1.0
    model: Mapping[str, Any] | str | None = None
    algorithms: Mapping[str, Any] = field(default_factory=dict)
    logits_key: Any = None
    origin: str = ''
    weights: WeightsEnum | None = None
    index: int = 0
    digest: str | None = None
    cache: CacheSpec | None = None
    compared: bool = field(default=True, kw_only=True)
    prepare: Prepare | None = None

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return f"teachers[{self.index}] ('{self.name}')"

    @property
    def here(self) -> bool:
        """Whether it lies on this machine, so that it can be looked at without fetching anything."""
        if self.kind in ('checkpoint', 'cache'):
            return not is_remote(self.source)
        return self.weights is None or file_of(self.weights).exists()


def _origin(kind: str, source: Any) -> str:
    """Where a teacher comes from, as plain text."""
    if kind == 'module':
        inner = source.module if isinstance(source, ComposerModel) and hasattr(source, 'module') else source
        return f'module:{type(inner).__name__}'
    return f'{kind}:{source}'


def _cache(said: Any, where: str, kind: str) -> CacheSpec:
    if isinstance(said, (str, os.PathLike)):
        said = {'path': os.fspath(said)}
    if not isinstance(said, Mapping):
        raise TypeError(f'{where}: expected a path or {{path: PATH, fill: true}}, got {said!r}.')
    alone = kind == 'cache'
    check_keys(said, {'path', 'local'} if alone else {'path', 'fill', 'format'}, where)
    path, fill, local = said.get('path'), said.get('fill', False), said.get('local')
    if not isinstance(path, (str, os.PathLike)) or not str(path).strip():
        raise ValueError(f'{where}.path: expected the folder of a store, got {path!r}.')
    if not isinstance(fill, bool):
        raise TypeError(f'{where}.fill: expected true or false, got {fill!r}.')
    path = os.fspath(path)
    if is_remote(path) and not alone:
        raise ValueError(
            f"{where}.path: beside a teacher a store is read and written on this machine or a file system it shares, "
            f"got '{path}'. Give a folder; a store at a URI is read by {{cache: URI}} alone.",
        )
    if not fill and not is_remote(path) and not os.path.isfile(os.path.join(path, NAME)):
        raise FileNotFoundError(
            f"{where}: there is no {NAME} in '{path}', so no stored answers (relative to {os.getcwd()}). Write them "
            "with 'composer-kd cache RECIPE.yaml --out PATH'"
            + ('.' if alone else ', or let this run store what it asks: fill: true.'),
        )
    return CacheSpec(path, fill, said.get('format'), None if local is None else str(local))


def _published(architecture: str, item: Mapping[str, Any], where: str) -> WeightsEnum:
    weights = item.get('weights', 'DEFAULT')
    if not isinstance(weights, str):
        raise TypeError(f"{where}.weights: expected a name such as 'IMAGENET1K_V2', got {weights!r}.")
    try:
        return published_weights(architecture, weights)
    except ValueError as error:
        key = 'weights' if str(error).startswith('unknown weights') else 'torchvision'
        raise ValueError(f'{where}.{key}: {error}') from None


def _parse(item: Any, index: int) -> TeacherSpec:
    where = f'teachers[{index}]'
    if isinstance(item, torch.nn.Module):
        return TeacherSpec('module', item, f'teacher{index}', origin=_origin('module', item), index=index)
    if not isinstance(item, Mapping):
        raise TypeError(
            f'{where}: expected a torch.nn.Module, {{run: FOLDER}}, {{checkpoint: PATH_OR_URI, model: {{...}}}}, '
            f'{{torchvision: NAME, weights: NAME}}, {{module: nn.Module}} or {{cache: PATH_OR_URI}}, got '
            f'{type(item).__name__}: {item!r}.',
        )
    kinds = [kind for kind in _SOURCES if kind in item]
    if len(kinds) == 2 and 'cache' in kinds:
        kinds.remove('cache')  # a teacher, and where its answers are stored
    if len(kinds) != 1:
        check_keys(item, {*_SOURCES, *(key for keys in _SOURCES.values() for key in keys)}, where)
        raise ValueError(
            f"{where}: expected one of the keys {', '.join(_SOURCES)} to say where the teacher comes from, got "
            f"{' and '.join(kinds) or 'none of them'}.",
        )
    kind = kinds[0]
    check_keys(item, {kind, *_SOURCES[kind]}, where)
    cache = _cache(item['cache'], f'{where}.cache', kind) if item.get('cache') is not None else None
    source = item[kind] if kind != 'cache' or cache is None else cache.path
    if kind == 'module' and not isinstance(source, torch.nn.Module):
        raise TypeError(f'{where}.module: expected a torch.nn.Module, got {type(source).__name__}: {source!r}.')
    if kind != 'module':
        if not str(source or '').strip():
            raise ValueError(f"{where}.{kind}: expected {_EXPECTED.get(kind, 'a path or URI')}, got {source!r}.")
        source = str(source)
    weights = _published(source, item, where) if kind == 'torchvision' else None
    if not isinstance(item.get('name', ''), str):
        raise TypeError(f"{where}.name: expected a string, got {type(item['name']).__name__}: {item['name']!r}.")
    weight = item.get('weight', 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not (0 < weight < math.inf):
        raise ValueError(f'{where}.weight: expected a finite number above 0, got {weight!r}.')
    digest = item.get('digest')
    if digest is not None and not (isinstance(digest, str) and re.fullmatch('[0-9a-f]{8,64}', digest)):
        raise ValueError(
            f"{where}.digest: expected 8 or more of the digits that 'composer-kd validate' shows, in quotes, got "
            f'{digest!r}.',
        )
    if item.get('algorithms') and not item.get('model'):
        raise ValueError(
            f"{where}.algorithms: names what rewrote the architecture in 'model', and there is no 'model'. Without one "
            "the student's own architecture is taken as it stands after its own algorithms; leave both or give both.",
        )
    return TeacherSpec(
        kind, source, str(item.get('name') or f'teacher{index}'), float(weight), item.get('model'),
        dict(item.get('algorithms') or {}), item.get('logits_key'),
        _origin(kind, f'{source}/{weights.name}' if weights is not None else source), weights, index, digest, cache,
        read_prepare(item['prepare'], f'{where}.prepare') if item.get('prepare') is not None else None,
    )


def parse_teachers(teachers: Any) -> list[TeacherSpec]:
    """Read ``teachers``: one of them or a sequence.

    Folders of earlier runs and local checkpoints are looked for here, so that a wrong path shows at once.

    Raises:
        TypeError: For something that is no teacher.
        ValueError: For an unknown key, a weight that is not above zero, no teacher at all, a name given twice, or a
            folder that holds no run.
        FileNotFoundError: For a missing folder.

    Example:
        >>> [spec.name for spec in parse_teachers([torch.nn.Linear(2, 2), {'module': torch.nn.ReLU(), 'name': 'b'}])]
        ['teacher0', 'b']
    """
    single = isinstance(teachers, (torch.nn.Module, Mapping, str)) or not isinstance(teachers, Sequence)
    items = [teachers] if single and not isinstance(teachers, torch.nn.ModuleList) else list(teachers)
    if not items:
        raise ValueError('teachers: expected at least one teacher, got an empty list.')
    specs = [_parse(item, index) for index, item in enumerate(items)]
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"teachers: the name '{name}' is given {names.count(name)} times; names must differ.")
    for index, spec in enumerate(specs):
        if spec.kind == 'run':
            folder = RunFolder(spec.source)
            try:
                folder.read_recipe()
                folder.latest_checkpoint()
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f'teachers[{index}].run: {error}') from error
        elif spec.kind == 'checkpoint' and not is_remote(spec.source) and not os.path.exists(spec.source):
            raise FileNotFoundError(
                f'teachers[{index}].checkpoint: there is nothing at {spec.source}. Give the path of a checkpoint, '
                f'relative to {os.getcwd()}, or a URI.',
            )
    return specs
