"""Plain PyTorch: a student's step with and without KD, and the loss alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarking.cases import (
    BASE_WEIGHT,
    IGNORED,
    KD_WEIGHT,
    LOSS,
    TEMPERATURE,
    Case,
    Flat,
    batch_of,
    batches_of,
    flat_batch,
    optimizer_of,
    student_of,
    teacher_of,
)
from benchmarking.process import Clock, loop
from composer_kd.losses import make_loss


def autocast(case: Case, gpu: bool) -> AbstractContextManager[Any]:
    """The precision of a forward, as Composer sets it for this name of one."""
    return torch.autocast('cuda' if gpu else 'cpu', torch.bfloat16, enabled=case.precision == 'amp_bf16')


def device_of(gpu: bool) -> torch.device:
    """Where steps run."""
    return torch.device('cuda' if gpu else 'cpu')


def inputs_of(case: Case, gpu: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and labels on the device, brought there one by one, without an end."""
    device = device_of(gpu)
    for batch in cycle([flat_batch(batch) for batch in batches_of(case, gpu)]):
        inputs, labels = (tensor.to(device, non_blocking=True) for tensor in batch)
        yield inputs, labels


def models_of(case: Case, gpu: bool) -> tuple[Flat, Flat]:
    """Student and teacher on the device, as a plain loop wants them."""
    device = device_of(gpu)
    student, teacher = (Flat(model).to(device) for model in (student_of(case), teacher_of(case)))
    return student.train(), teacher.eval().requires_grad_(False)


def base_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The student's own."""
    return functional.cross_entropy(logits, labels, ignore_index=IGNORED)


def serve_plain(clock: Clock, case: Case, kd: bool) -> None:
    """A loop as a textbook writes it, with KD or without."""
    student, teacher = models_of(case, clock.gpu)
    if not kd:
        del teacher
    optimizer, inputs = optimizer_of(case, student), inputs_of(case, clock.gpu)

    def forward() -> Tensor:
        images, labels = next(inputs)
        with autocast(case, clock.gpu):
            logits = student(images)
            loss = base_loss(logits, labels)
            if not kd:
                return loss
            with torch.no_grad():
                target = teacher(images)
            soft = functional.kl_div(
                functional.log_softmax(logits / TEMPERATURE, dim=1), functional.softmax(target / TEMPERATURE, dim=1),
                reduction='batchmean',
            )
        return BASE_WEIGHT * loss + KD_WEIGHT * TEMPERATURE ** 2 * soft

    def step() -> Tensor:
        loss = forward()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    loop(clock, step)


def student_flops(case: Case) -> float:
    """FLOPs of a student's forward and backward pass on a batch, counted on two samples of it."""
    few = dataclasses.replace(case, batch_size=2)
    model, batch = student_of(few), batch_of(few, 0)
    # as plain products: the counter does not know the fused attention of CPUs
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model.loss(model(batch), batch).backward()
    return float(counter.get_total_flops()) * case.batch_size / 2


def serve_loss(clock: Clock, case: Case) -> None:
    """Our loss alone, forward and backward, on logits of the case's rows and classes."""
    device = device_of(clock.gpu)
    dtype = torch.bfloat16 if case.precision == 'amp_bf16' else torch.float32
    random = torch.Generator().manual_seed(1)
    student, teacher = (
        torch.randn((case.rows, case.classes), generator=random).to(device, dtype) for _ in range(2)
    )
    student.requires_grad_()
    loss = make_loss(LOSS)

    def step() -> None:
        (KD_WEIGHT * loss.rows(student, teacher).sum() / case.rows).backward()
        student.grad = None

    loop(clock, step)
