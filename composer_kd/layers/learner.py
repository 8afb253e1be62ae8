"""Projectors in training: beside the student's optimizer, on all ranks alike, and in the algorithm's own state."""

from __future__ import annotations

import base64
import inspect
import io
from collections.abc import Collection, Mapping
from typing import Any

import torch
from composer.core import Precision, State
from composer.utils import dist
from torch import Tensor, nn


def twin_of(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of the same class and with the settings of the first group, for other parameters.

    Raises:
        ValueError: For a class that cannot be made again from its settings.
    """
    kind, group = type(optimizer), _settings(optimizer)
    known = inspect.signature(kind).parameters
    settings = {**optimizer.defaults, **group}
    try:
        twin: torch.optim.Optimizer = kind(parameters, **{k: v for k, v in settings.items() if k in known})
    except Exception as error:
        raise ValueError(
            f"losses: projectors are trained by an optimizer of the student's class, and {kind.__name__} cannot be "
            f'made again from its settings: {error}. Use another optimizer, or projector: none.',
        ) from error
    twin.param_groups[0].update(group)
    return twin


def _settings(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {key: value for key, value in optimizer.param_groups[0].items() if key not in ('params', 'param_names')}


class Learner:
    """Trains modules that are none of the student's, with the student.

    They cannot be in the student's own optimizer: Composer names an optimizer's state by the model's parameters, so
    that strangers have no name in a checkpoint, and FSDP2 refuses them. A twin of that optimizer takes each step with
    it, at its learning rate. Gradients are averaged over ranks as DDP averages the student's.

    Args:
        modules: The modules by name; their parameters are the same on all ranks.
        state: The training, at ``INIT``.
    """

    def __init__(self, modules: Mapping[str, nn.Module], state: State) -> None:
        self.modules = nn.ModuleDict(modules)
        self.modules.to(state.device.tensor_to_device(torch.zeros(0)).device)
        self._parameters = [p for p in self.modules.parameters() if p.requires_grad]
        self._optimizer = twin_of(state.optimizers[0], self._parameters) if self._parameters else None
        self._scaled, self._due = False, False

    def open_batch(self) -> None:
        """A batch begins, or begins again."""
        if self._optimizer is not None:
            self._optimizer.zero_grad(set_to_none=True)
        self._due = False

    def reduce(self, state: State, used: Collection[str]) -> None:
        """All microbatches have had their backward pass: average the gradients over ranks. Every rank calls this.

        Args:
            state: The training; its optimizer's learning rate is the one of this step.
            used: The modules that any rank used, the same on all.
        """
        if self._optimizer is None:
            return
        self._due = True
        # schedulers move on before the batch has ended
        self._optimizer.param_groups[0].update(_settings(state.optimizers[0]))
        parameters = [p for name in sorted(used) for p in self.modules[name].parameters() if p.requires_grad]
        if not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
        scaler = state.scaler if state.precision is Precision.AMP_FP16 else None
        self._scaled = scaler is not None and scaler.is_enabled()
        share = 1.0 / dist.get_world_size()
        if self._scaled and scaler is not None:
            share /= scaler.get_scale()  # the scaler's own step has waited for the device already
        if dist.get_world_size() > 1:
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        if share != 1:
            torch._foreach_mul_(gradients, share)

    def step(self) -> None:
        """The student has made its step: make one too. With a loss scaler, not where gradients overflowed."""
        if self._optimizer is None or not self._due:
            return
        self._due = False
        if self._scaled:
            gradients = [p.grad for p in self._parameters if p.grad is not None]
            if not all(bool(torch.isfinite(gradient).all()) for gradient in gradients):
                return
        self._optimizer.step()

    def state_text(self) -> str:
        """Weights and the optimizer's state as one text: a checkpoint in parts is read key by key, and this is one."""
        kept = {
            'modules': {key: value.detach().cpu() for key, value in self.modules.state_dict().items()},
            'optimizer': None if self._optimizer is None else self._optimizer.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(kept, buffer)
        return base64.b64encode(buffer.getvalue()).decode()

    def load_text(self, text: str) -> None:
        """Go on from :meth:`state_text`.

        Raises:
            ValueError: If it is of other modules.
        """
        kept = torch.load(io.BytesIO(base64.b64decode(text)), map_location='cpu', weights_only=True)
        own = {key: tuple(value.shape) for key, value in self.modules.state_dict().items()}
        then = {key: tuple(value.shape) for key, value in kept['modules'].items()}
        if own != then:
            other = sorted({key for key in {**own, **then} if own.get(key) != then.get(key)})
            raise ValueError(
                f"losses: the checkpoint's projectors are other ones ({', '.join(other[:4])}). Distil from the layers "
                'that it was made with, or load its weights alone (load_weights_only).',
            )
        self.modules.load_state_dict(kept['modules'])
        if self._optimizer is not None and kept['optimizer'] is not None:
            self._optimizer.load_state_dict(kept['optimizer'])
