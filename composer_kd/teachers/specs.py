"""What a user may write for ``teachers``, read and checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from composer.models import ComposerModel

from composer_kd.names import check_keys
from composer_kd.teachers.aligning import AS_THEY_ARE, Align, read_align
from composer_kd.teachers.cache_spec import CacheSpec, read_cache
from composer_kd.teachers.kinds import COMMON, TEACHERS, check_entry, kind_of, kinds_in
from composer_kd.teachers.preparing import Prepare, read_prepare

_STORED = frozenset({'name', 'weight', 'digest', 'vocabulary'})


@dataclass(frozen=True)
class TeacherSpec:
    """One teacher as the user asked for it.

    Attributes:
        kind: Its name in :data:`composer_kd.teachers.TEACHERS`; ``'cache'`` stands for stored answers alone.
        source: The folder, the path or URI, a library's name of a model, or the module itself.
        name: Its name in logs and records, unique among the teachers.
        weight: Its share: of the average where all teachers or teachers in turn answer, of the draws where they are
            drawn at random. Above zero.
        logits_key: Where its logits are in its outputs; ``None`` for where the student's are.
        origin: Kind and source as plain text.
        index: Its place among the teachers.
        digest: The first hexadecimal digits, 8 or more, of the digest that it must have; ``None`` for any.
        cache: Where its answers are stored, if anywhere.
        compared: Whether its logits are compared with the student's, so that both need the same classes.
        prepare: How it is prepared for inference; ``None`` for as all are.
        settings: Those of its kind alone.
        align: How its inputs and answers are made to fit the student's.
    """

    kind: str
    source: Any
    name: str
    weight: float = 1.0
    logits_key: Any = None
    origin: str = ''
    index: int = 0
    digest: str | None = None
    cache: CacheSpec | None = None
    compared: bool = field(default=True, kw_only=True)
    prepare: Prepare | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    align: Align = AS_THEY_ARE

    @property
    def where(self) -> str:
        """What it is called in messages."""
        return f"teachers[{self.index}] ('{self.name}')"

    @property
    def here(self) -> bool:
        """Whether it lies on this machine, so that it can be looked at without fetching anything."""
        here = kind_of(self.kind).here
        return here is None or here(self.source, **self.settings)


def _origin(kind: str, source: Any) -> str:
    """Where a teacher comes from, as plain text."""
    if kind == 'module':
        inner = source.module if isinstance(source, ComposerModel) and hasattr(source, 'module') else source
        return f'module:{type(inner).__name__}'
    return f'{kind}:{source}'


def _parse(item: Any, index: int) -> TeacherSpec:
    where = f'teachers[{index}]'
    if isinstance(item, torch.nn.Module):
        return TeacherSpec('module', item, f'teacher{index}', origin=_origin('module', item), index=index)
    if not isinstance(item, Mapping):
        raise TypeError(
            f'{where}: expected a torch.nn.Module, {{run: FOLDER}}, {{checkpoint: PATH_OR_URI, model: {{...}}}}, '
            f'{{torchvision: NAME, weights: NAME}}, {{module: nn.Module}}, {{cache: PATH_OR_URI}} or another of '
            f"{', '.join(TEACHERS.names())}, got {type(item).__name__}: {item!r}.",
        )
    kinds = kinds_in(item)
    if len(kinds) == 2 and 'cache' in kinds:
        kinds.remove('cache')  # a teacher, and where its answers are stored
    if len(kinds) != 1:
        names = TEACHERS.names()
        check_keys(item, {*names, *COMMON, *(key for name in names for key in kind_of(name).settings())}, where)
        raise ValueError(
            f"{where}: expected one of the keys {', '.join(names)} to say where the teacher comes from, got "
            f"{' and '.join(kinds) or 'none of them'}.",
        )
    name = kinds[0]
    kind = kind_of(name, where)
    if name == 'cache':
        check_keys(item, {'cache', *_STORED}, where)
    settings = {key: value for key, value in item.items() if key not in {name, *COMMON}}
    cache = read_cache(item['cache'], f'{where}.cache', name) if item.get('cache') is not None else None
    source = item[name] if name != 'cache' or cache is None else cache.path
    if kind.source is not str and not isinstance(source, kind.source):
        raise TypeError(
            f'{where}.{name}: expected a {kind.source.__module__.partition(".")[0]}.nn.{kind.source.__name__}, got '
            f'{type(source).__name__}: {source!r}.',
        )
    if kind.source is str:
        if not str(source or '').strip():
            raise ValueError(f'{where}.{name}: expected {kind.expected}, got {source!r}.')
        source = str(source)
    check_entry(kind, name, source, settings, where)
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
    return TeacherSpec(
        name, source, str(item.get('name') or f'teacher{index}'), float(weight), item.get('logits_key'),
        _origin(name, kind.told(source, **settings) if kind.told is not None else source), index, digest, cache,
        read_prepare(item['prepare'], f'{where}.prepare') if item.get('prepare') is not None else None,
        settings, read_align(item, where),
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
    return specs
