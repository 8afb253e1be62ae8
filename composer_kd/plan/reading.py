"""The data of a recipe, as far as it is known without reading a sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from composer_kd.names import split_named
from composer_kd.plan.result import Data, Problem
from composer_kd.recipes import Recipe
from composer_kd.recipes.parts import told_at
from composer_kd.recipes.tasks.registry import DATA, SHAPES


@dataclass(frozen=True)
class Source:
    """One of the recipe's data: what it is, and what is wrong with it.

    Attributes:
        where: Its path in the recipe.
        batch_size: Over all ranks.
        num_workers: Processes of each rank.
        data: What is known of it.
        batch: Makes a batch of that many samples on the default device; ``None`` where its shape is not known.
        problems: What is wrong.
        key: What is the same for data that lies in the same place.
    """

    where: str
    batch_size: int
    num_workers: int
    data: Data
    batch: Callable[[int], Any] | None
    problems: list[Problem]
    key: str


def read_sources(recipe: Recipe) -> list[Source]:
    """Training data first, then that of each evaluator."""
    said = {'train_data': recipe.train_data}
    for label, evaluator in recipe.evaluators.items():
        said[f'evaluators.{label}.data'] = {'batch_size': recipe.train_data['batch_size'], **evaluator.data}
    return [_read(where, spec) for where, spec in said.items()]


def _read(where: str, spec: Mapping[str, Any]) -> Source:
    name, settings = split_named(spec, where)
    DATA.get(name, where)  # what describes data is imported with what builds it
    size, train = settings.pop('batch_size'), where == 'train_data'
    problems: list[Problem] = []
    data, batch = Data(name=name, note='nothing is known of its shape'), None
    if name in SHAPES:
        try:
            shape = told_at(where, name, DATA.get(name), partial(SHAPES[name], train, **settings))
            data = Data(
                name=name, samples=shape.samples, tokens=shape.tokens, disk_bytes=shape.disk_bytes, note=shape.note,
            )
            batch = shape.batch
        except FileNotFoundError as error:
            problems.append(_problem('warning', error))
        except (ValueError, TypeError) as error:
            problems.append(_problem('error', error))
    path = settings.get('path')
    if not problems and isinstance(path, str) and settings.get('remote') is None and not Path(path).exists():
        problems.append(Problem(
            level='warning', where=f'{where}.path',
            told=f"there is nothing at '{path}' on this machine. Put the data there before training, or give its place "
                 f'as {where}.path=FOLDER.',
        ))
    place = f"{name} {path or ''} {settings.get('split') or ('train' if train else 'evaluation')}"
    return Source(where, size, int(settings.get('num_workers') or 0), data, batch, problems, place)


def _problem(level: Any, error: Exception) -> Problem:
    where, _, told = str(error).partition(': ')
    return Problem(level=level, where=where, told=told)
