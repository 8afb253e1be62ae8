"""The same step in other distillation libraries, each as its documentation writes it.

Each is imported in its own process, so that one that is not there, or does not run, says so and stops no other.
"""

from __future__ import annotations

import logging
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor, nn

from benchmarking.cases import BASE_WEIGHT, IGNORED, KD_WEIGHT, TEMPERATURE, Case, optimizer_of
from benchmarking.plain import autocast, base_loss, device_of, inputs_of, models_of
from benchmarking.process import Clock, loop

PEERS = {'torchdistill': 'torchdistill', 'modelopt': 'nvidia-modelopt', 'timm': 'timm'}
"""Names in tables, and those of the packages."""


def versions() -> dict[str, str | None]:
    """The version of each that is installed; ``None`` where it is not."""
    found: dict[str, str | None] = {}
    for package in PEERS.values():
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def serve_torchdistill(clock: Clock, case: Case) -> None:
    """torchdistill: a ``DistillationBox`` with ``KDLoss``, as its image classification example trains."""
    from torchdistill.common.constant import def_logger
    from torchdistill.core.distillation import get_distillation_box

    def_logger.setLevel(logging.ERROR)
    clock.imported()
    student, teacher = models_of(case, clock.gpu)
    rates = {'adamw': {'lr': 1e-6}, 'sgd': {'lr': 1e-6, 'momentum': 0.9}}[case.optimizer]
    both = {'student_module_path': '.', 'student_module_io': 'output', 'teacher_module_path': '.',
            'teacher_module_io': 'output'}
    loss = {'temperature': TEMPERATURE, 'alpha': BASE_WEIGHT, 'beta': KD_WEIGHT, 'reduction': 'batchmean',
            'ignore_index': IGNORED}
    box: Any = get_distillation_box(teacher, student, {}, {
        'num_epochs': 1,
        'teacher': {'forward_proc': 'forward_batch_only', 'requires_grad': False},
        'student': {'forward_proc': 'forward_batch_only', 'requires_grad': True},
        'optimizer': {'key': {'adamw': 'AdamW', 'sgd': 'SGD'}[case.optimizer], 'kwargs': rates},
        'criterion': {'key': 'WeightedSumLoss', 'kwargs': {'sub_terms': {
            'kd': {'criterion': {'key': 'KDLoss', 'kwargs': {**both, **loss}}, 'weight': 1.0},
        }}},
    }, device_of(clock.gpu), None, False, 1)
    box.pre_epoch_process(epoch=0)
    inputs = inputs_of(case, clock.gpu)

    def step() -> Tensor:
        sample, labels = next(inputs)
        with autocast(case, clock.gpu):
            loss: Tensor = box.forward_process(sample, labels, None)
        box.post_forward_process(loss)
        return loss.detach()

    loop(clock, step)


def serve_modelopt(clock: Clock, case: Case) -> None:
    """NVIDIA ModelOpt: the student converted with ``mode='kd_loss'`` and ``LogitsDistillationLoss``.

    The loss's own default divides by the classes as well; ``batchmean`` is the papers' and everyone else's.
    """
    import modelopt.torch.distill as mtd

    clock.imported()
    student, teacher = models_of(case, clock.gpu)
    model: Any = mtd.convert(student, mode=[('kd_loss', {
        'teacher_model': teacher,
        'criterion': mtd.LogitsDistillationLoss(temperature=TEMPERATURE, reduction='batchmean'),
        'loss_balancer': mtd.StaticLossBalancer(KD_WEIGHT),
    })])
    model.train()
    optimizer, inputs = optimizer_of(case, model), inputs_of(case, clock.gpu)

    def step() -> Tensor:
        images, labels = next(inputs)
        optimizer.zero_grad()
        with autocast(case, clock.gpu):
            loss: Tensor = model.compute_kd_loss(student_loss=base_loss(model(images), labels))
        loss.backward()
        optimizer.step()
        return loss.detach()

    loop(clock, step)


def serve_timm(clock: Clock, case: Case) -> None:
    """timm: a ``LogitDistillationTask``, as its ``train.py`` uses it.

    It asks a student for what timm's models say of themselves. Ours are torchvision's and transformers', which say
    nothing, so it is written beside them; equal statistics of the images mean that nothing is converted.
    """
    from timm.task import LogitDistillationTask

    clock.imported()
    student, teacher = models_of(case, clock.gpu)
    told: Any = student
    told.num_classes, told.in_chans = case.classes, 1 if case.text else case.shape[0]
    told.pretrained_cfg = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
    task: Any = LogitDistillationTask(
        student_model=student, teacher_model=teacher, criterion=nn.CrossEntropyLoss(ignore_index=IGNORED),
        task_loss_weight=BASE_WEIGHT, distill_loss_weight=KD_WEIGHT, temperature=TEMPERATURE,
        device=device_of(clock.gpu), verbose=False,
    ).to(device_of(clock.gpu))
    task.train()
    optimizer, inputs = optimizer_of(case, student), inputs_of(case, clock.gpu)

    def step() -> Tensor:
        images, labels = next(inputs)
        with autocast(case, clock.gpu):
            loss: Tensor = task(images, labels)['loss']
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    loop(clock, step)
