"""Models without memory: what a training's precision makes of a forward on the meta device, and what it keeps."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

# The functions that CUDA's autocast runs in the lower precision and in float32, by the names under which models call
# them (https://pytorch.org/docs/stable/amp.html); autocast itself does not see tensors on the meta device.
_LOW = frozenset({
    '__matmul__', '__rmatmul__', 'addbmm', 'addmm', 'addmv', 'addr', 'baddbmm', 'bmm', 'chain_matmul', 'conv1d',
    'conv2d', 'conv3d', 'conv_transpose1d', 'conv_transpose2d', 'conv_transpose3d', 'einsum', 'linear',
    'matmul', 'mm', 'multi_dot', 'multi_head_attention_forward', 'mv', 'prelu', 'scaled_dot_product_attention',
})
_FULL = frozenset({
    '__pow__', '__rpow__', 'binary_cross_entropy_with_logits', 'cosine_embedding_loss', 'cosine_similarity',
    'cross_entropy', 'cumprod', 'cumsum', 'dist', 'exp', 'group_norm', 'hinge_embedding_loss', 'kl_div',
    'l1_loss', 'layer_norm', 'log', 'log10', 'log1p', 'log2', 'log_softmax', 'mse_loss', 'nll_loss', 'norm', 'pow',
    'prod', 'rsqrt', 'smooth_l1_loss', 'softmax', 'softmin', 'softplus', 'sum',
})
LOWER = {'amp_fp16': torch.float16, 'amp_bf16': torch.bfloat16, 'amp_fp8': torch.bfloat16}
"""The lower precision of each of Composer's; eight-bit products keep their inputs in bfloat16."""


class _FusedAttention(torch.autograd.Function):
    """What a fused attention kernel keeps: its inputs, its output and a logarithm of sums."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        kept = [query, key, value, output, query.new_empty(query.shape[:-1], dtype=torch.float32)]
        ctx.save_for_backward(*kept, *([] if mask is None else [mask]))
        return output


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **kwargs: Any,
) -> Tensor:
    return _FusedAttention.apply(query, key, value, attn_mask)  # type: ignore[no-any-return]


def _dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    # CUDA's kernel keeps a mask of one byte an element; elsewhere torch keeps a mask of the input's own type.
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


class OnMeta(TorchFunctionMode):
    """Runs models on the meta device as a training would run them.

    A question about values, which are not there, is answered with no: a mask then counts as one that hides something.

    Args:
        precision: One of Composer's, or ``None`` for what the tensors come in.
        gpu: Whether to put CUDA's fused kernels (attention, dropout) in the place of those of other devices.
    """

    def __init__(self, precision: str | None = None, gpu: bool = False) -> None:
        super().__init__()
        self._low = LOWER.get(precision or '')
        self._gpu = gpu
        self._casts: dict[tuple[int, torch.dtype], Tensor] = {}

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(self._cast(item, dtype) for item in value)
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.dtype == dtype:
            return value
        if not isinstance(value, torch.nn.Parameter):
            return value.to(dtype)
        # As autocast does: one copy of a parameter, however often it is used.
        if (id(value), dtype) not in self._casts:
            self._casts[id(value), dtype] = value.to(dtype)
        return self._casts[id(value), dtype]

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Called by torch for each of its functions."""
        kwargs, name = dict(kwargs or {}), getattr(func, '__name__', '')
        if name in ('__bool__', '__contains__'):
            return False
        if self._low is not None and (name in _LOW or name in _FULL):
            dtype = self._low if name in _LOW else torch.float32
            args = [self._cast(value, dtype) for value in args]
            kwargs = {key: self._cast(value, dtype) for key, value in kwargs.items()}
        if self._gpu and name == 'scaled_dot_product_attention':
            return _attention(*args, **kwargs)
        if self._gpu and name == 'dropout':
            return _dropout(*args, **kwargs)
        return func(*args, **kwargs)


class Kept:
    """Counts the memory of the tensors that a forward keeps for its backward, each once; the model's own not.

    Args:
        model: The model.

    Example:
        >>> model = torch.nn.Linear(4, 3)
        >>> with Kept(model) as kept:
        ...     _ = model(torch.zeros(2, 4)).exp()
        >>> kept.bytes()                                # the input, 2 x 4 numbers, and the output of exp, 2 x 3
        56
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._own = {id_of(tensor) for tensor in (*model.parameters(), *model.buffers())}
        # The storages themselves are held, so that no later one gets the identity of one that is gone.
        self._seen: dict[int, torch.UntypedStorage] = {}
        self._hooks = saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def _pack(self, tensor: Tensor) -> Tensor:
        if id_of(tensor) not in self._own:
            self._seen[id_of(tensor)] = tensor.untyped_storage()
        return tensor

    def bytes(self, without: Collection[int] = ()) -> int:
        """Of all of them but those whose :func:`id_of` is in ``without``."""
        return sum(storage.nbytes() for key, storage in self._seen.items() if key not in without)

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)


def id_of(tensor: Tensor) -> int:
    """What tensors have in common that share their memory."""
    return int(tensor.untyped_storage()._cdata)
