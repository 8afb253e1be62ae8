"""Programs of ``torch.export`` as teachers."""

from __future__ import annotations

import re
import zipfile
from typing import Any

import torch
from torch import nn

from composer_kd.models.outside import sha256, told
from composer_kd.teachers.fetch import fetched, is_remote
from composer_kd.teachers.kinds.onnx_file import check_file
from composer_kd.teachers.kinds.opaque import OpaqueModel
from composer_kd.teachers.kinds.registry import TEACHERS, Kind
from composer_kd.teachers.kinds.scan import refuse_code
from composer_kd.teachers.safe import safely, why_refused


class ExportedModel(OpaqueModel):
    """An exported program as a module.

    Args:
        program: What ``torch.export.load`` gave.
        digest: SHA-256 of the file, hexadecimal.
        where: What it is for, for messages.
    """

    file: torch.Tensor

    def __init__(self, program: Any, digest: str, where: str) -> None:
        super().__init__()
        # the weights alone do not tell two programs apart
        self.register_buffer('file', torch.tensor(list(bytes.fromhex(digest)), dtype=torch.uint8))
        self._where = where
        self._names = tuple(spec for spec in program.graph_signature.user_inputs)
        self.program = program.module()
        self.eval()

    def forward(self, *given: Any, **named: Any) -> Any:
        """The program's answer; of inputs by name, those that it has.

        Raises:
            ValueError: If an input is missing, or has a size for which the program was not exported.
        """
        found = {name: named[name] for name in self._names if name in named}
        inputs = list(given)
        if not inputs and len(found) < len(self._names):
            missing = next(name for name in self._names if name not in found)
            raise ValueError(
                f"{self._where}: the exported program asks for {', '.join(self._names)}, and a batch gives it no "
                f"{missing}, only {', '.join(named)}. Export it with the names that batches have.",
            )
        try:
            if inputs:
                return self.program(*inputs[:len(self._names)])
            return self.program(**found) if self._by_name else self.program(*found.values())
        except RuntimeError as error:
            if 'Expected input' not in str(error):
                raise
            raise ValueError(
                f'{self._where}: the exported program was made for inputs of another size: {told(error)[:300]}. Export '
                "it with dynamic_shapes, such as {0: torch.export.Dim('batch')} for each input.",
            ) from error

    @property
    def _by_name(self) -> bool:
        spec = getattr(self.program, '_in_spec', None)
        # the arguments were given by name where the first of (args, kwargs) is empty
        return spec is not None and spec.children_specs[0].num_leaves == 0

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        _move_constants(self.program, fn(torch.zeros(0)).device)
        return self


def _move_constants(program: Any, device: torch.device) -> None:
    """Have what the program makes by itself made on another device: a program names it where it was exported."""
    graph = getattr(program, 'graph', None)
    if graph is None:
        return
    for node in graph.nodes:
        if node.kwargs.get('device') is not None:
            node.kwargs = {**node.kwargs, 'device': device}
    program.recompile()


def load_exported(source: str, *, where: str = 'teacher') -> nn.Module:
    """A file that ``torch.export.save`` wrote, as an opaque model.

    Such a file is a list of operations with their weights. Before torch reads it, it is held against what may be in it:
    operations on tensors, plain numbers and sizes, and weights that are tensors.

    Args:
        source: Its path or URI.
        where: What it is for, for messages.

    Raises:
        FileNotFoundError: If it is not there.
        ValueError: If it is something else, damaged, made by a version of torch that this one cannot read, or holds
            what could run code.
    """
    with fetched(source) as path:
        try:
            if _torchscript(path):
                raise ValueError(
                    'It is TorchScript, whose programs may write files; export the model with torch.export.save.',
                )
            refuse_code(path)
            with safely():
                program = torch.export.load(str(path))
        except Exception as error:  # what torch raises is its own
            refused = why_refused(error)
            if refused is not None:
                raise ValueError(
                    f'{where}.exported: {source} holds more than a program on tensors ({refused}) and was not loaded, '
                    'as that could run code of whoever made it. Export the model anew with torch.export.save.',
                ) from error
            raise ValueError(
                f'{where}.exported: {source} cannot be read as a program of torch.export. '
                f'({told(error)[:300]})',
            ) from error
        return ExportedModel(program, sha256([path]), f'{where}.exported')


def _torchscript(path: Any) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(re.fullmatch(r'[^/]+/code/.*', name) for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _check(source: str, where: str) -> None:
    check_file(source, where, 'exported', 'model.pt2')


TEACHERS.register('exported')(
    Kind(load_exported, 'a path or URI', _check, lambda source: not is_remote(source), opaque=True),
)
