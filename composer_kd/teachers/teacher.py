"""A teacher: a frozen model that answers one question, ``outputs(batch)``."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
from composer.core import Precision, State, get_precision_context
from composer.models import ComposerModel
from composer.utils import dist
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from composer_kd.batches import (
    POSITIONS,
    Key,
    LogitsKey,
    at_positions,
    call_module,
    find_logits,
    target_of,
    without_target,
)
from composer_kd.teachers.keeper import Keeper
from composer_kd.teachers.placement import bring_when_used, shard
from composer_kd.teachers.preparing import Prepare, Prepared, choose_steps, read_prepare, tolerance_of
from composer_kd.teachers.stored import with_format
from composer_kd.teachers.weights import digest_of


class Watching(Protocol):
    """Captures what happens within a model around each forward."""

    def __call__(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Around one forward."""

    def take(self) -> Any:
        """What the latest forward gave."""


class Teacher:
    """A frozen model and where it comes from.

    It runs in eval mode and without gradients; its parameters are not touched, not even their ``requires_grad``. A
    ``ComposerModel`` is called on the batch with its labels withheld, any other module on the batch's input.

    Args:
        module: The model.
        name: Its name in logs and records.
        weight: Its share, above zero.
        origin: Where it comes from, as plain text.
        input_key: Where a batch holds the input of a plain module; ``None`` for the usual place.
        target_key: Where a batch holds the labels; ``None`` for the usual place.
        logits_key: Where the model's outputs hold the logits; ``None`` for the usual place.
        borrowed: Whether the module is the user's own object, to be put back on its device afterwards.
        prepare: How it is prepared for inference once it is placed.

    Example:
        >>> teacher = Teacher(torch.nn.Linear(4, 3), 'linear', origin='module:Linear')
        >>> teacher.outputs((torch.zeros(2, 4), torch.tensor([0, 1]))).shape
        torch.Size([2, 3])
    """

    def __init__(
        self, module: torch.nn.Module, name: str, weight: float = 1.0, origin: str = 'module', input_key: Key = None,
        target_key: Key = None, logits_key: LogitsKey = None, borrowed: bool = False, prepare: Prepare | None = None,
    ) -> None:
        self.name = name
        self.weight = weight
        self.origin = origin
        self.prepare = read_prepare('none') if prepare is None else prepare
        self.digest = digest_of(module)
        self.placement = 'replicated'
        self.keeper: Keeper | None = None
        self.prepared: Prepared | None = None
        self.watch: Watching | None = None
        self._alone = True
        self._module: torch.nn.Module | None = module.eval()
        self._input_key, self._target_key, self._logits_key = input_key, target_key, logits_key
        self._borrowed = borrowed
        self._home = next((p.device for p in module.parameters()), None) if borrowed else None

    @property
    def module(self) -> torch.nn.Module:
        """The model.

        Raises:
            RuntimeError: If it was released.
        """
        if self._module is None:
            raise RuntimeError(
                f"Teacher '{self.name}' was released when its window closed. Build a new Distillation to train again.",
            )
        return self._module

    def keep(self, keeper: Keeper) -> None:
        """Read and write its answers there; from now on it answers as they are written."""
        self.keeper = keeper
        self.digest = with_format(self.digest, keeper.form)

    @property
    def told_of_preparation(self) -> dict[str, Any]:
        """Which steps were taken, and with a smaller resolution how often the first choice stayed."""
        one = self.prepared
        agreement = None if one is None or one.agreement is None else one.agreement[0]
        return {'prepared': [] if one is None else one.labels, 'resolution_agreement': agreement}

    @property
    def vocabulary(self) -> Any:
        """The digest of its words and their numbers, where its model says it."""
        return getattr(self.module, 'vocabulary', None)

    @property
    def released(self) -> bool:
        """Whether the model's memory was given up."""
        return self._module is None

    def place(self, state: State, placement: str) -> None:
        """Lay the model where it is to be for this training.

        Args:
            state: The training.
            placement: ``'replicated'``, ``'sharded'`` or ``'host'``; see :mod:`composer_kd.teachers.placement`.
        """
        self.placement = placement
        if placement != 'replicated' and self._borrowed:
            # both change the model itself, and this one is the user's
            lent, home = self.module.cpu(), self._home
            self._module, self._borrowed, self._home = copy.deepcopy(lent), False, None
            lent.to(home)
        if placement == 'sharded':
            shard(self.module, state)
        elif placement == 'host':
            bring_when_used(self.module.cpu(), state.device.tensor_to_device(torch.zeros(0)).device)
        self.to_device(state)
        self.make_ready(state.device.tensor_to_device(torch.zeros(0)).device, state.precision)
        self._alone = self.keeper is not None or dist.get_world_size() == 1

    def to_device(self, state: State) -> None:
        """Move a model that lies whole on the device there, and see that it is in eval mode."""
        if self.placement == 'replicated':
            self._module = state.device.module_to_device(self.module)
        self.module.eval()

    def make_ready(self, device: torch.device, precision: Precision) -> None:
        """Prepare a model that lies where it will run, as :attr:`prepare` says; its first answer is checked.

        Args:
            device: Where it runs.
            precision: In which the training, or who asks, runs it.

        Raises:
            ValueError: For what was asked for by name and cannot be.
        """
        who = f"Teacher '{self.name}' ({self.origin})"
        steps = choose_steps(self.module, self.prepare, device, precision, self.placement, who)
        if steps:
            tolerance = tolerance_of(self.prepare.tolerance, steps, device, precision)
            together = self.placement == 'sharded'
            self.prepared = Prepared(self.module, steps, who, tolerance, self._ask, together)

    def settle(self) -> None:
        """Let the untouched model go, once a first answer has shown that the prepared one answers as it does."""
        assert self.prepared is not None
        if self.prepared.settle() is not None:
            self._send_home()
        self._module = self.prepared.model

    def outputs(self, batch: Any, positions: Tensor | None = None) -> Tensor:
        """The teacher's logits for a batch, without a graph.

        Args:
            batch: A (micro)batch on the teacher's device, as the student's ``forward`` gets it.
            positions: At which of the batch's ``N * L`` tokens they are wanted; ``None`` for all. A model that can
                compute those alone finds them in the batch, under ``masked_positions``.

        Returns:
            Logits, shape ``(N, ..., C)`` as the model gives them, or ``(M, C)`` at ``M`` positions, in the precision it
            runs in.
        """
        return self._answer(batch, positions)

    def _answer(self, batch: Any, positions: Tensor | None, check: bool = True) -> Tensor:
        given = without_target(batch, self._target_key)
        module = self.module
        if self.prepared is None:
            return self._ask(module, given, positions)
        answer = self.prepared.answer(given, positions, target_of(batch, self._target_key), check)
        if self._alone and self.prepared.untouched is not None and self.prepared.error is not None:
            if self.prepared.failed is not None:
                raise ValueError(self.prepared.failed)
            self.settle()
        return answer

    def look_at(self, batch: Any, state: State) -> None:
        """One forward of the untouched model on a batch, for what watches it alone; no answer is checked by it."""
        with get_precision_context(state.precision, state.precision_config):
            self._ask(self.module, without_target(batch, self._target_key), None)

    def _ask(self, module: torch.nn.Module, batch: Any, positions: Tensor | None) -> Tensor:
        if positions is not None and isinstance(batch, Mapping):
            batch = {**batch, POSITIONS: positions}
        if module.training:  # someone else may hold this module too
            module.eval()
        with torch.no_grad(), nullcontext() if self.watch is None else self.watch(module):
            if isinstance(module, ComposerModel):
                found = module(batch)
            else:
                found = call_module(module, batch, self._input_key, self._target_key)
        logits: Tensor = at_positions(find_logits(found, self._logits_key, f"teacher '{self.name}'"), positions, 3)
        return logits

    def flops(self, batch: Any, positions: Tensor | None = None) -> float:
        """FLOPs of one forward for one sample of ``batch`` (matrix products, convolutions and attention)."""
        with FlopCounterMode(display=False) as counter:
            answer: Tensor = self._answer(batch, positions, check=False) if self.prepared is None else (
                self.prepared.flops_of(lambda: self._answer(batch, positions, check=False))
            )
        samples = len(answer)
        if positions is not None:
            samples = next(len(value) for value in batch.values() if isinstance(value, Tensor))
        return float(counter.get_total_flops()) / samples

    def release(self) -> None:
        """Give up the model's memory; a module the user lent goes back to the device it came from."""
        if self._module is not None:
            self._send_home()
        self._module = None
        if self.prepared is not None:
            self.prepared.release()

    def _send_home(self) -> None:
        if self._home is not None:
            self.module.to(self._home)
        self._home = None


def refuse_shared_parameters(student: torch.nn.Module, teachers: Sequence[Teacher]) -> None:
    """Refuse a teacher that is the student, or shares parameters with it: it would learn, and lose its train mode.

    Raises:
        ValueError: Naming the teacher.
    """
    own = {id(parameter) for parameter in student.parameters()}
    for teacher in teachers:
        if any(id(parameter) in own for parameter in teacher.module.parameters()):
            raise ValueError(
                f"Teacher '{teacher.name}' shares parameters with the student. A teacher stands still: give a copy "
                '(copy.deepcopy(model)) or a checkpoint.',
            )


def outputs_known(model: torch.nn.Module) -> int | None:
    """The number of classes or the vocabulary a model says it has, or ``None`` where it does not say."""
    classes = getattr(model, 'num_classes', None)
    if isinstance(classes, int):
        return classes
    inner = getattr(model, 'model', model)
    config = getattr(inner, 'config', None)
    kinds = [kind.__name__ for kind in type(inner).__mro__]
    if config is not None and any(kind.endswith('ForSequenceClassification') for kind in kinds):
        return int(config.num_labels)
    if config is not None and any(kind.endswith(('ForMaskedLM', 'ForCausalLM', 'LMHeadModel')) for kind in kinds):
        return int(config.vocab_size)
    return None


def refuse_another_vocabulary(student: torch.nn.Module, teachers: Sequence[Any]) -> None:
    """Refuse a teacher whose tokenizer numbers words otherwise than the student's, where both are known.

    Raises:
        ValueError: Naming the teacher.
    """
    own = getattr(student, 'vocabulary', None)
    for teacher in teachers:
        theirs = teacher.vocabulary
        if own is not None and theirs is not None and own != theirs:
            raise ValueError(
                f"Teacher '{teacher.name}' ({teacher.origin}) has another vocabulary than the student: other words "
                'stand behind the same numbers. Choose a teacher that was trained with the same tokenizer.',
            )
