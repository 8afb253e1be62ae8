"""What the ways to write a model share, and what each says of what it wrote."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

WEIGHTS = 'model.safetensors'


@dataclass(frozen=True)
class Written:
    """A model on disk, loaded again and compared.

    Attributes:
        title: What the model is.
        libraries: That load it.
        tried: Those of them that loaded it here, and gave the outputs of the run's model.
        code: What loads it, by the library's name: Python that runs in the folder of the export.
        words: Further sentences on what is in the files.
    """

    title: str
    libraries: tuple[str, ...]
    tried: tuple[str, ...]
    code: dict[str, str]
    words: list[str] = field(default_factory=list)


def refuse_difference(library: str, found: float, allowed: float) -> None:
    """Refuse a model that another library has computed otherwise.

    Raises:
        RuntimeError: With the difference.
    """
    if not found <= allowed:
        raise RuntimeError(
            f"export: loaded with {library}, the model's outputs differ from those of the run's by {found:.1e} of the "
            f'largest, more than {allowed:.0e}. Nothing was written.',
        )


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's state as safetensors wants it: contiguous, no two of them in the same memory."""
    state = module.state_dict()
    return {name: value.detach().clone(memory_format=torch.contiguous_format) for name, value in state.items()}


def fill(plain: nn.Module, module: nn.Module) -> bool:
    """Give a library's model the weights of another; ``False`` if their names or shapes differ."""
    own, state = plain.state_dict(), module.state_dict()
    if {name: value.shape for name, value in own.items()} != {name: value.shape for name, value in state.items()}:
        return False
    plain.load_state_dict(state)
    plain.eval()
    return True
