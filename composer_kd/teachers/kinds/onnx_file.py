"""ONNX files as teachers, run by onnxruntime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from composer_kd.models.outside import sha256, told
from composer_kd.teachers.fetch import fetched, is_remote
from composer_kd.teachers.kinds.opaque import OpaqueModel
from composer_kd.teachers.kinds.registry import TEACHERS, Kind

_TYPES: dict[str, Any] = {
    'tensor(float)': np.float32, 'tensor(float16)': np.float16, 'tensor(double)': np.float64,
    'tensor(int64)': np.int64, 'tensor(int32)': np.int32, 'tensor(bool)': np.bool_, 'tensor(uint8)': np.uint8,
}


class OnnxModel(OpaqueModel):
    """A session of onnxruntime as a module.

    It runs where onnxruntime can: on a GPU with the package ``onnxruntime-gpu``, in host memory otherwise. Inputs and
    answers pass through host memory in either case, for which the step waits: an ONNX teacher beside a training on a
    GPU is for storing its answers (``composer-kd cache``) rather than for asking it in every step.

    Args:
        session: The session, an ``onnxruntime.InferenceSession``.
        digest: SHA-256 of the file, hexadecimal.
    """

    program: Tensor

    def __init__(self, session: Any, digest: str) -> None:
        super().__init__()
        self._session = session
        self._inputs = {one.name: _TYPES.get(one.type, np.float32) for one in session.get_inputs()}
        self._outputs = [one.name for one in session.get_outputs()]
        # so that the digest of a module's buffers is one of the program
        self.register_buffer('program', torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))
        self.eval()

    def __deepcopy__(self, memo: Any) -> OnnxModel:
        other = OnnxModel(self._session, bytes(self.program.tolist()).hex())  # a session cannot be copied, nor changes
        return other.to(self.program.device)

    def forward(self, *given: Any, **named: Any) -> Any:
        """The program's answer.

        Args:
            *given: Its inputs in their order.
            **named: Its inputs by name; further ones, which it does not have, are passed over.

        Returns:
            A tensor where it has one output, and otherwise a dictionary by their names; on the device of the inputs.

        Raises:
            ValueError: If an input is missing.
        """
        inputs = dict(zip(self._inputs, given, strict=False)) | {k: v for k, v in named.items() if k in self._inputs}
        missing = [name for name in self._inputs if not isinstance(inputs.get(name), Tensor)]
        if missing:
            raise ValueError(
                f"an ONNX teacher asks for {', '.join(self._inputs)}, and a batch gives it no {missing[0]}. Its "
                f"batches have {', '.join(named) or f'{len(given)} inputs'}; export it with the names that they have.",
            )
        device = next(iter(inputs.values())).device
        plain = {
            name: np.ascontiguousarray(
                (tensor.float() if tensor.dtype is torch.bfloat16 else tensor.detach()).cpu().numpy(),
            ).astype(self._inputs[name], copy=False) for name, tensor in inputs.items()
        }
        # NumPy arrays of the session's own memory are not kept beyond its next run
        found = [torch.from_numpy(np.array(one)).to(device) for one in self._session.run(None, plain)]
        return found[0] if len(found) == 1 else dict(zip(self._outputs, found, strict=True))


def load_onnx(source: str, *, where: str = 'teacher') -> nn.Module:
    """An ONNX file as an opaque model.

    Args:
        source: Its path or URI. Weights in files of their own must lie beside it, and on this machine.
        where: What it is for, for messages.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If onnxruntime is not installed or refuses it.
    """
    runtime = _runtime(where)
    with fetched(source) as path:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        providers = [
            name for name in ('CUDAExecutionProvider', 'CPUExecutionProvider')
            if name in runtime.get_available_providers()
        ]
        try:
            session = runtime.InferenceSession(str(path), options, providers=providers)
        except Exception as error:  # what onnxruntime raises is its own
            raise ValueError(
                f'{where}.onnx: onnxruntime cannot read {source}: {told(error)[:300]}. Is it an ONNX file, whole, and '
                'of an opset that this version knows?',
            ) from error
        return OnnxModel(session, sha256(_files(path)))


def _files(path: Path) -> list[Path]:
    """The file, and those beside it in which its weights lie by the exporters' conventions."""
    return [path, *sorted(other for ending in ('.data', '_data') if (other := Path(f'{path}{ending}')).is_file())]


def _runtime(where: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{where}.onnx: the package onnxruntime is not installed. Install it: pip install 'composer_kd[onnx]'.",
        ) from error
    return onnxruntime


def check_file(source: str, where: str, kind: str, example: str) -> None:
    """Refuse a file that is not there.

    Raises:
        FileNotFoundError: Saying what to give.
    """
    if not is_remote(source) and not Path(source).is_file():
        raise FileNotFoundError(
            f"{where}.{kind}: there is no file '{source}'. Give the path of one such as {example}, relative to "
            f'{os.getcwd()}, or a URI.',
        )


def _check(source: str, where: str) -> None:
    check_file(source, where, 'onnx', 'model.onnx')
    _runtime(where)


TEACHERS.register('onnx')(
    Kind(load_onnx, 'a path or URI', _check, lambda source: not is_remote(source), opaque=True),
)
