"""How the KD term joins Composer's loss, and the algorithm Composer's list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from composer.core import Algorithm, State
from torch import Tensor


def last_at_init(algorithm: Algorithm, state: State) -> bool:
    """Move ``algorithm`` to the end of the list while the engine asks who takes part in ``INIT``.

    It has to see the student after every other algorithm's surgery, and to add its term after every other algorithm
    that touches the loss. The engine collects those who take part by walking ``state.algorithms``; one that is put at
    its end on the way is asked a second time there, and takes part then.

    Returns:
        Whether to take part now: only at the end of the list.

    Raises:
        ValueError: If there is a second one of its kind. Composer restores state by class, so both would get one's.
    """
    kind = type(algorithm)
    others = [a for a in state.algorithms if isinstance(a, kind) and a is not algorithm]
    if others:
        raise ValueError(
            f'There are {len(others) + 1} {kind.__name__} algorithms in this trainer; Composer would restore the state '
            'of one into all of them. Give one of them all the teachers.',
        )
    if state.algorithms[-1] is not algorithm:
        state.algorithms.append(algorithm)
        return False
    first = next(i for i, a in enumerate(state.algorithms) if a is algorithm)
    if first < len(state.algorithms) - 1:
        del state.algorithms[first]
    return True


def join(loss: Any, kd: Tensor, base_weight: float, kd_weight: float) -> tuple[Any, Tensor]:
    """Add the KD term to whatever form of loss the model returned.

    Args:
        loss: A tensor; a sequence of tensors, summed by Composer; or a mapping, of which Composer backpropagates
            ``total`` or else the sum.
        kd: The KD scalar.
        base_weight: Weight of the model's own loss.
        kd_weight: Weight of the KD scalar.

    Returns:
        The loss in a form that Composer logs under the keys it had, and the model's own loss, detached.
    """
    if isinstance(loss, Mapping):
        base = loss['total'] if 'total' in loss else _sum(list(loss.values()))
        return {**loss, 'total': base_weight * base + kd_weight * kd}, base.detach().float().mean()
    if isinstance(loss, (tuple, list)):
        first, *rest = loss
        joined = (base_weight * first + kd_weight * kd, *(base_weight * part for part in rest))
        return joined, _sum(loss).detach().float()
    return base_weight * loss + kd_weight * kd, loss.detach().float().mean()


def _sum(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.mean() for part in parts]).sum()
