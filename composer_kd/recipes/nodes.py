"""What Composer leaves out on several ranks and on several machines that share a file system."""

from __future__ import annotations

import functools
import random

from composer.core import Callback, State
from composer.loggers import Logger
from composer.utils import dist
from torch.distributed.tensor import DTensor


def name_signal_files_by_node() -> None:
    """Let every machine have signal files of its own.

    The ranks of a machine wait for their first one by a file in the run folder. In Composer 0.32.1 all machines give
    that file the name that rank zero drew, so on a shared file system the machine that is done first removes it under
    the others, which then fail.
    """
    given = dist.get_node_signal_file_name
    if getattr(given, 'by_node', False):
        return

    @functools.wraps(given)
    def by_node(rng: random.Random | None = None) -> str:
        return f'{given(rng)}_{dist.get_node_rank()}'

    by_node.by_node = True  # type: ignore[attr-defined]
    dist.get_node_signal_file_name = by_node


class SameBuffers(Callback):
    """Lets every rank evaluate the model that is saved: rank zero's.

    Each rank moves the running statistics of its BatchNorm layers on with its own samples, and Composer 0.32.1
    evaluates with what that left on each. The quality would be that of no model there is, and another one where a
    resumed run evaluates before it trains. Training is as it was: its batches have statistics of their own, and what is
    saved is rank zero's.

    Events: ``EVAL_START``. State touched: floating-point buffers of ranks other than zero. Checkpoint: nothing.
    """

    def eval_start(self, state: State, logger: Logger) -> None:
        """Take rank zero's buffers."""
        if dist.get_world_size() == 1:
            return
        for buffer in state.model.buffers():
            if buffer.is_floating_point() and not isinstance(buffer, DTensor):
                values = buffer.detach().contiguous()
                dist.broadcast(values, src=0)
                buffer.copy_(values)
