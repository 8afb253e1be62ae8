"""What a training would miss: teachers, weights, cores, a run folder of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from composer_kd.models.tokenizers import load_tokenizer, vocabulary_digest
from composer_kd.plan.building import WHERE, Built
from composer_kd.plan.neighbours import Neighbours
from composer_kd.plan.reading import Source
from composer_kd.plan.result import Problem, problem
from composer_kd.recipes import Recipe
from composer_kd.recipes.folder import holds_nothing, refusal
from composer_kd.runs import RunFolder


def of_teachers(recipe: Recipe, teachers: Sequence[Built], outputs: int | None) -> Iterator[Problem]:
    """Teachers that are missing, broken, or of another task."""
    own = recipe.model.get('tokenizer')
    for index, teacher in enumerate(teachers):
        where = f'{WHERE}.teachers[{index}]'
        if teacher.wrong:
            yield problem('error', where, teacher.wrong)
        elif teacher.missing:
            made_by = f' It can be made with {teacher.made_by}.' if teacher.made_by else ''
            yield problem('warning', where, teacher.missing + made_by)
        elif teacher.note:
            yield problem('note', where, f'{teacher.origin} is {teacher.note}; it is fetched when training starts.')
        if teacher.kept is not None:
            level, told = teacher.kept
            yield problem(level, f'{where}.cache', told)
        if None not in (outputs, teacher.outputs) and outputs != teacher.outputs and not _layers_alone(recipe):
            yield problem(
                'error', where,
                f'{teacher.origin} has {teacher.outputs:,} outputs and the student {outputs:,}. Distillation on logits '
                'needs the same classes or vocabulary in the same order: choose a teacher made for this task.',
            )
        elif own and teacher.tokenizer and own != teacher.tokenizer:
            yield from _vocabularies(where, str(own), teacher.tokenizer)


def _layers_alone(recipe: Recipe) -> bool:
    """Whether all losses compare layers, so that a teacher of another task will do."""
    losses = recipe.algorithms.get('distillation', {}).get('losses') or [{}]
    return all(isinstance(loss, dict) and loss.get('student_layer') is not None for loss in losses)


def _vocabularies(where: str, own: str, theirs: str) -> Iterator[Problem]:
    if not (Path(own).is_dir() and Path(theirs).is_dir()):
        yield problem(
            'note', where,
            f"its tokenizer is '{theirs}' and the student's '{own}'; whether they number words alike shows when "
            'training starts.',
        )
        return
    try:
        same = vocabulary_digest(load_tokenizer(own)) == vocabulary_digest(load_tokenizer(theirs))
    except ValueError as error:
        yield problem('error', where, str(error))
        return
    if not same:
        yield problem(
            'error', where,
            f"its tokenizer '{theirs}' numbers words otherwise than the student's '{own}'. Choose a teacher that was "
            'trained with the same tokenizer.',
        )


def of_machine(recipe: Recipe, sources: Sequence[Source], per_node: int) -> Iterator[Problem]:
    """Workers for whom there are no cores, a precision for which there is no hardware."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    workers = sources[0].num_workers
    if workers and (workers + 1) * per_node > cores:
        yield problem(
            'note', 'train_data.num_workers',
            f'{workers} workers and the rank itself, times {per_node}, are {(workers + 1) * per_node} processes, and '
            f'this machine has {cores} cores. Where it trains, there should be a core for each.',
        )
    if recipe.precision == 'amp_fp8':
        yield problem(
            'warning', 'precision', 'amp_fp8 needs an H100 or later and transformer_engine; an A100 takes amp_bf16.',
        )


def of_folders(recipe: Recipe, neighbours: Neighbours) -> Iterator[Problem]:
    """A run folder that is taken, weights to begin with that are not here."""
    folder = RunFolder(recipe.run_folder)
    spec = recipe.start_from
    if spec is not None and spec.run is not None and not RunFolder(spec.run).recipe_path.exists():
        found = neighbours.making(spec.run)
        made_by = 'Make that run first.' if found is None else f'It can be made with {found[0]}.'
        yield problem('warning', 'start_from.run', f"there is no run '{spec.run}' on this machine. {made_by}")
    if spec is not None and spec.checkpoint and '://' not in spec.checkpoint and not Path(spec.checkpoint).exists():
        yield problem(
            'warning', 'start_from.checkpoint',
            f"there is nothing at '{spec.checkpoint}' on this machine. Put it there.",
        )
    begin = recipe.load_path
    if begin is not None and '://' not in begin and recipe.load_object_store is None and not Path(begin).exists():
        yield problem('warning', 'load_path', f"there is nothing at '{begin}' on this machine. Put it there.")
    if not folder.path.exists():
        return
    if not folder.path.is_dir():
        yield problem('error', 'run_folder', f"'{folder.path}' is a file; give the path of a folder.")
    elif not folder.recipe_path.exists():
        if not holds_nothing(folder):
            told = f"'{folder.path}' is not empty and holds no run. Choose another run_folder."
            yield problem('error', 'run_folder', told)
    elif folder.record_path.exists():
        refused = refusal(folder, recipe)
        if refused is None:
            told = f"'{folder.path}' holds this run, unfinished: it will be gone on with."
            yield problem('note', 'run_folder', told)
        elif recipe.overwrite:
            yield problem('warning', 'run_folder', f'{refused} overwrite=true removes it.')
        else:
            told = f'{refused} Choose another run_name, or remove that run with overwrite=true.'
            yield problem('error', 'run_folder', told)
