"""FLOPs of the models and of the training, counted as :mod:`composer_kd.callbacks` counts them in a run's record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from composer.models import ComposerModel

from composer_kd.batches import call_module, without_target
from composer_kd.callbacks import forward_flops, untouched
from composer_kd.plan.course import Course
from composer_kd.plan.onmeta import OnMeta
from composer_kd.plan.result import Distilling, Evaluating, Flops

_SAMPLES = 64

LEFT_OUT = {
    'progressive_resizing': 'progressive_resizing: images are smaller for {share:.0f} % of the training, which then '
                            'takes about {saved:.0f} % fewer FLOPs than these',
    'seq_length_warmup': 'seq_length_warmup: sequences are shorter at first',
    'colout': 'colout: images lose some rows and columns',
    'stochastic_depth': 'stochastic_depth: blocks that are passed over',
    'selective_backprop': 'selective_backprop: its extra forward, and the samples it leaves out of the step',
    'layer_freezing': 'layer_freezing: layers that stop learning',
}
"""What algorithms do to the FLOPs of a step, by name, that is not counted."""

_ALWAYS = 'losses, optimizer, norms and other work without matrix products; gradient checkpointing; data'


def forward_per_sample(model: torch.nn.Module, batch: Callable[[int], Any], settings: Mapping[str, Any]) -> float:
    """FLOPs of one evaluation-mode forward on one sample, on the meta device.

    Args:
        model: The model, on the meta device.
        batch: Makes a batch of that many samples.
        settings: Of the recipe's ``Distillation``, for ``input_key`` and ``target_key``; empty for the student.

    Raises:
        Exception: Whatever the model raises, as where it looks at values that are not there.
    """
    with torch.device('meta'), OnMeta(), untouched(model):
        given = batch(_SAMPLES)
        if settings and isinstance(model, ComposerModel):
            given = without_target(given, settings['target_key'])
        if isinstance(model, ComposerModel):
            return forward_flops(lambda: model(given)) / _SAMPLES
        keys = settings.get('input_key'), settings.get('target_key')
        return forward_flops(lambda: call_module(model, given, *keys)) / _SAMPLES


def count(
    course: Course, student: float | None, teachers: Mapping[str, float | None], distilling: Distilling | None,
    algorithms: Mapping[str, Mapping[str, Any]], evaluators: Mapping[str, Evaluating],
) -> tuple[Flops, Distilling | None]:
    """FLOPs of a step and of all of them, and the schedule with what its teachers add.

    Args:
        course: The course of the training.
        student: Of one forward on one sample; ``None`` where not counted.
        teachers: Likewise, by name.
        distilling: How often they run.
        algorithms: Of the recipe.
        evaluators: What is evaluated, how often.
    """
    left_out = [_ALWAYS, *(_left_out(name, settings) for name, settings in algorithms.items() if name in LEFT_OUT)]
    if student is None:
        return Flops(left_out=left_out), distilling
    step = 3 * student * course.batch_size
    seen = [(spec.rounds, spec.samples, spec.forward_flops_per_sample) for spec in evaluators.values()]
    known = [rounds * samples * each for rounds, samples, each in seen if None not in (rounds, samples, each)]  # type: ignore[operator]
    evaluation = sum(known) if len(known) == len(seen) else None
    if course.steps is None:
        return Flops(step=step, evaluation=evaluation, left_out=left_out), distilling
    sam = algorithms.get('sam')
    again = step * (course.steps // int(sam.get('interval', 1))) if sam is not None else 0.0
    flops = Flops(
        step=step, without_kd=step * course.steps + again, sam=again, evaluation=evaluation, left_out=left_out,
    )
    if distilling is None:
        return flops.model_copy(update={'training': flops.without_kd, 'recorded': step * course.steps}), None
    asked = [name for name, batches in distilling.batches.items() if batches]
    if any(teachers.get(name) is None for name in asked):
        return flops, distilling
    cost = {name: teachers[name] or 0.0 for name in asked}
    taught = sum(distilling.samples[name] * each for name, each in cost.items())
    # Of one pass: SAM's second has the student and the teachers once more.
    on = sum(distilling.batches[name] * each for name, each in cost.items()) / max(distilling.active_steps, 1)
    with_kd = {
        'step_with_kd': step + on * course.batch_size if asked else None,
        'training': step * course.steps + again + taught,
        'recorded': step * course.steps + taught,
    }
    overhead = {
        'overhead_on': on / (3 * student) if asked else None,
        'overhead': taught / (step * course.steps + again),
    }
    return flops.model_copy(update=with_kd), distilling.model_copy(update=overhead)


def _left_out(name: str, settings: Mapping[str, Any]) -> str:
    if name != 'progressive_resizing':
        return LEFT_OUT[name]
    small, delay, finetune = (
        float(settings.get(key, default))
        for key, default in (('initial_scale', 0.5), ('delay_fraction', 0.5), ('finetune_fraction', 0.2))
    )
    growing = 1 - delay - finetune
    # FLOPs go with the area: the square of the scale, which grows linearly in between.
    area = delay * small**2 + growing * (1 + small + small**2) / 3 + finetune
    return LEFT_OUT[name].format(share=100 * (1 - finetune), saved=100 * (1 - area))
