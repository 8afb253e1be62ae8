"""From a recipe to its plan."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from composer.core import Time, TimeUnit
from composer.models import ComposerModel

from composer_kd.plan import cost, foresee, memory, missing
from composer_kd.plan.building import (
    Built,
    build_distillation,
    build_parts,
    build_teacher,
    in_words,
    teachers_of,
)
from composer_kd.plan.course import Course
from composer_kd.plan.distilling import follow, on_device, window_of
from composer_kd.plan.neighbours import Neighbours
from composer_kd.plan.reading import Source, read_sources
from composer_kd.plan.result import Checkpoints, Distilling, Evaluating, Length, Model, Plan, Problem, problem
from composer_kd.recipes import Recipe, recipe_digest
from composer_kd.teachers import outputs_known

_LEVELS = ('error', 'warning', 'note')


def plan_recipe(
    recipe: Recipe, ranks: int = 8, memory_gb: float = 80.0, nodes: int = 1, beside: str | Path | None = None,
) -> Plan:
    """What a recipe will do and cost on so many GPUs, found out on any machine without data and without training.

    Models are built on the meta device: no weight is drawn or read, and nothing is written to disk.

    Args:
        recipe: The recipe.
        ranks: GPUs in all, one process each, 1 or more.
        memory_gb: Memory of a GPU in GiB, above 0.
        nodes: Machines over which the ranks are spread evenly.
        beside: The folder of the recipe's file. A teacher's run that is not here yet is looked for among the recipes
            in it and in the folders beside it.

    Returns:
        The plan. :attr:`Plan.stops` says whether one of its problems would stop the training.

    Raises:
        ValueError: For anything in the recipe that is unknown, missing or refused, with its path, or ranks that the
            nodes cannot share.
        TypeError: For a value of a wrong type.

    Example:
        >>> from composer_kd.recipes import parse_recipe
        >>> plan = plan_recipe(parse_recipe({
        ...     'run_name': 'a', 'model': 'digits_resnet', 'train_data': {'name': 'digits', 'batch_size': 32},
        ...     'optimizer': {'name': 'sgd', 'lr': 0.1}, 'max_duration': '10ep'}), ranks=2)
        >>> plan.length.steps, plan.student.parameters, plan.memory.optimizer
        (330, 14362, 0)
    """
    if ranks < 1 or nodes < 1 or ranks % nodes:
        raise ValueError(f'ranks: {ranks} GPUs cannot be spread evenly over {nodes} nodes; give a multiple of them.')
    if not memory_gb > 0:
        raise ValueError(f'memory_gb: expected the memory of a GPU in GiB, above 0, got {memory_gb!r}.')
    with warnings.catch_warnings(), _quiet():
        warnings.simplefilter('ignore')  # what they warn of concerns a training
        return _plan(recipe, ranks, nodes, memory_gb, Neighbours(None if beside is None else Path(beside)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _plan(recipe: Recipe, ranks: int, nodes: int, memory_gb: float, neighbours: Neighbours) -> Plan:
    (parts, warned), settings = build_parts(recipe), build_distillation(recipe)
    student, sources = parts.model, read_sources(recipe)
    teachers = [
        build_teacher(item, index, recipe, student, neighbours) for index, item in enumerate(teachers_of(recipe))
    ]
    course = course_of(recipe, sources[0])
    gpu = recipe.device != 'cpu'
    precision = recipe.precision or ('amp_fp16' if gpu else 'fp32')
    batch_per_rank = max(1, sources[0].batch_size // ranks)
    per_node = ranks // nodes

    itself = Built('student', model=student, said=in_words(recipe.model), outputs=outputs_known(student))
    own = _model(itself, sources[0], {})
    pool = [_model(teacher, sources[0], settings or {}) for teacher in teachers]
    evaluators = _evaluators(recipe, sources, course, own, student)
    distilling = _follow(recipe, course, settings, teachers, ranks)
    flops, distilling = cost.count(
        course, own.forward_flops_per_sample, {model.name: model.forward_flops_per_sample for model in pool},
        distilling, recipe.algorithms, evaluators,
    )
    weights = memory.Weights.of(student, recipe)
    kept, uncounted = _activations(student, sources[0], precision, gpu)
    needed = memory.estimate(
        weights, kept, on_device(pool, settings, ranks, memory_gb * memory.GIB, gpu),
        memory.copies(settings['teachers_per_batch']) if settings else 0,
        recipe, ranks, per_node, batch_per_rank, round(memory_gb * memory.GIB), gpu,
    )
    found = [
        *_once(sources),
        *foresee.of_batches(recipe, sources, course, ranks),
        *missing.of_teachers(recipe, teachers, own.outputs),
        *(foresee.of_distilling(course, settings, distilling) if settings else ()),
        *foresee.of_schedule(recipe, course, parts.schedulers),
        *foresee.of_intervals(recipe, course),
        *(foresee.of_memory(needed) if gpu else ()),
        *missing.of_machine(recipe, sources, per_node),
        *missing.of_folders(recipe, neighbours),
        *(problem('note', f'algorithms.{name}', f'Composer warns: {told}') for name, told in warned.items()),
        *uncounted,
    ]
    places = {source.key: source.data.disk_bytes for source in sources}
    return Plan(
        run_name=recipe.run_name,
        run_folder=recipe.run_folder,
        recipe=_in_short(recipe),
        digest=recipe_digest(recipe.plain()),
        ranks=ranks,
        nodes=nodes,
        precision=precision,
        data=sources[0].data,
        evaluators=evaluators,
        length=_length(course, batch_per_rank),
        checkpoints=_checkpoints(recipe, course, weights),
        data_bytes=None if None in places.values() else sum(size or 0 for size in places.values()),
        student=own,
        teachers=pool,
        distilling=distilling,
        flops=flops,
        memory=needed,
        problems=sorted(found, key=lambda one: _LEVELS.index(one.level)),
    )


def _once(sources: Sequence[Source]) -> list[Problem]:
    """The problems of the data, what several have in common told of the first alone."""
    found: dict[str, Problem] = {}
    for source in sources:
        for one in source.problems:
            found.setdefault(one.told.replace(source.where, ''), one)
    return list(found.values())


def course_of(recipe: Recipe, train: Source) -> Course:
    """The course of the recipe's training.

    Args:
        recipe: The recipe.
        train: Its training data.
    """
    duration: Time[int] = Time.from_input(recipe.max_duration, TimeUnit.EPOCH)
    if recipe.scale_schedule_ratio != 1:
        duration = duration * recipe.scale_schedule_ratio
    length = None if train.data.samples is None else max(1, train.data.samples // train.batch_size)
    subset = recipe.train_subset_num_batches
    if subset > 0:
        length = subset if length is None else min(length, subset)
    return Course(duration, train.batch_size, train.data.tokens, length)


def _length(course: Course, batch_per_rank: int) -> Length:
    steps, length = course.steps, course.batches_per_epoch
    samples = None if steps is None else steps * course.batch_size
    return Length(
        max_duration=str(course.duration.to_timestring()),
        batch_size=course.batch_size,
        batch_per_rank=batch_per_rank,
        batches_per_epoch=length,
        steps=steps,
        epochs=None if steps is None or not length else steps / length,
        samples=samples,
        tokens=None if samples is None else samples * course.tokens,
    )


def _evaluators(
    recipe: Recipe, sources: Sequence[Source], course: Course, own: Model, student: ComposerModel,
) -> dict[str, Evaluating]:
    found, counted = {}, {_shapes(sources[0]): own.forward_flops_per_sample}
    for (label, spec), source in zip(recipe.evaluators.items(), sources[1:], strict=True):
        subset = recipe.eval_subset_num_batches if spec.subset_num_batches is None else spec.subset_num_batches
        samples = source.data.samples
        if subset > 0 and samples is not None:
            samples = min(samples, subset * source.batch_size)
        rounds = course.moments(recipe.eval_interval if spec.interval is None else spec.interval)
        shapes = _shapes(source)
        if shapes not in counted:
            counted[shapes] = _model(Built(label, model=student), source, {}).forward_flops_per_sample
        found[label] = Evaluating(
            data=source.data, rounds=rounds, samples=samples, forward_flops_per_sample=counted[shapes],
        )
    return found


def _shapes(source: Source) -> str:
    """What batches have in common on which a forward takes the same."""
    if source.batch is None:
        return ''
    with torch.device('meta'):
        return str([tuple(tensor.shape) for tensor in memory.tensors_of(source.batch(2))])


def _model(built: Built, train: Source, settings: dict[str, Any]) -> Model:
    if built.stored is not None:  # nothing of it is in memory, and nothing runs
        return Model(
            name=built.name, origin=built.origin, model=built.said, parameters=0, bytes=0, outputs=built.outputs,
            forward_flops_per_sample=0.0, stored_bytes=None if built.missing or built.note else built.stored,
            note=built.note,
        )
    if built.model is None:
        return Model(name=built.name, origin=built.origin, model=built.said, note=built.note or 'not known here')
    flops, note = None, f'as {built.made_by} would make it' if built.made_by else built.note
    if train.batch is not None:
        try:
            flops = cost.forward_per_sample(built.model, train.batch, settings)
        except Exception as error:  # a model may do anything; the rest of the plan stands without this figure
            note = f"{f'{note}; ' if note else ''}FLOPs not counted ({_told(error)})"
    return Model(
        name=built.name,
        origin=built.origin,
        model=built.said,
        parameters=sum(parameter.numel() for parameter in built.model.parameters()),
        bytes=memory.size_of((*built.model.parameters(), *built.model.buffers())),
        outputs=built.outputs,
        forward_flops_per_sample=flops,
        note=note,
    )


def _told(error: Exception) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:200]


def _follow(
    recipe: Recipe, course: Course, settings: dict[str, Any] | None, teachers: Sequence[Built], ranks: int,
) -> Distilling | None:
    if settings is None or course.steps is None:
        return None
    try:
        window_of(course, settings)
    except ValueError:
        return None  # among the problems
    sam = recipe.algorithms.get('sam')
    return follow(
        course, settings, [teacher.name for teacher in teachers], [teacher.weight for teacher in teachers], recipe.seed,
        None if sam is None else int(sam.get('interval', 1)), ranks,
    )


def _activations(
    student: ComposerModel, train: Source, precision: str, gpu: bool,
) -> tuple[memory.Activations | None, list[Problem]]:
    if train.batch is None:
        return None, []
    try:
        return memory.activations(student, train.batch, precision, gpu), []
    except Exception as error:
        told = f'the memory of a forward could not be counted ({_told(error)}); try a small run on one GPU.'
        return None, [problem('note', 'model', told)]


def _checkpoints(recipe: Recipe, course: Course, weights: memory.Weights) -> Checkpoints:
    saved = course.moments(recipe.save_interval)
    limit, each = recipe.save_num_checkpoints_to_keep, weights.checkpoint(recipe.save_weights_only)
    kept = saved if saved is None or limit < 0 else min(saved, limit)
    return Checkpoints(saved=saved, kept=kept, bytes_each=each, bytes_kept=None if kept is None else kept * each)


def _in_short(recipe: Recipe) -> dict[str, str]:
    algorithms = {
        f'algorithms.{name}': ', '.join(f'{key} {value}' for key, value in settings.items() if key != 'teachers')
        for name, settings in recipe.algorithms.items()
    }
    return {
        'model': in_words(recipe.model),
        'train_data': in_words(recipe.train_data),
        **{f'evaluators.{label}': in_words(spec.data) for label, spec in recipe.evaluators.items()},
        'optimizer': in_words(recipe.optimizer),
        'scheduler': '; '.join(map(in_words, recipe.schedulers)) or 'none',
        **{name: told or 'default settings' for name, told in algorithms.items()},
        'max_duration': str(recipe.max_duration),
        'seed': str(recipe.seed),
    }
