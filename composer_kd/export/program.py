"""Models that no library builds: the computation itself, which torch runs without any code of the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from composer.models import ComposerModel, HuggingFaceModel
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from composer_kd.batches import find_logits
from composer_kd.export.probe import TOLERANCE, Probe, difference
from composer_kd.export.text import save_tokenizer
from composer_kd.export.written import WEIGHTS, Written, refuse_difference, tensors

PROGRAM = 'model.pt2'
# Further than any batch, and below where slices of a whole dimension would be told from whole ones.
_LARGEST = 2**31 - 1

_CODE = '''
import torch

model = torch.export.load('model.pt2').module()
logits = model(torch.rand{shape})
'''
_TEXT = '''
import torch

model = torch.export.load('model.pt2').module()
words = torch.zeros({shape}, dtype=torch.int64)
logits = model({arguments})  # {names}
'''
_ARGUMENTS = {'input_ids': 'words', 'attention_mask': 'torch.ones_like(words)'}


class _Logits(nn.Module):
    """Gives the logits alone: outputs of a class of its own could be read only where that class is."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Tensor:
        return find_logits(self.model(**dict(zip(self.names, inputs, strict=True))), None, 'the model')


def write_program(model: ComposerModel, title: str, probe: Probe, folder: Path) -> Written:
    """Write a model as a ``torch.export`` program with any number of samples, and its weights by their names.

    Args:
        model: The run's model, rewritten for evaluation.
        title: What the model is.
        probe: What it has to compute; a text's length is that of the program.
        folder: Where to write.

    Raises:
        RuntimeError: If torch cannot export it, or the program computes something else.
    """
    text = isinstance(model, HuggingFaceModel)
    inner: Any = model.model if text else model.module
    names, inputs = tuple(probe.inputs), tuple(probe.inputs.values())
    save_file(tensors(inner), folder / WEIGHTS, {'format': 'pt'})
    torch.export.save(_exported(_Logits(inner, names) if text else inner, inputs, text), folder / PROGRAM)
    with torch.no_grad(), _quietly():
        loaded = torch.export.load(folder / PROGRAM).module()
        for samples in (len(probe.expected), 1):
            found = loaded(*(value[:samples] for value in inputs))
            refuse_difference('torch.export', difference(found, probe.expected[:samples]), TOLERANCE)
    words = [
        f'No library builds this architecture by its name, so `{PROGRAM}` holds the computation itself, in evaluation '
        f'and for any number of samples; torch {torch.__version__.split("+")[0]} wrote it. `{WEIGHTS}` holds the '
        'weights by their names.',
    ]
    shape = (1, *inputs[0].shape[1:])
    if not text:
        return Written(title, ('torch',), ('torch',), {'torch': _CODE.format(shape=shape)}, words)
    words.append(f'A text is padded to {shape[1]} tokens, with 0 in the attention mask.')
    if model.tokenizer is not None:
        save_tokenizer(model.tokenizer, folder)
        words.append("Its tokenizer: `transformers.AutoTokenizer.from_pretrained('.')`.")
    arguments = ', '.join(_ARGUMENTS.get(name, 'torch.zeros_like(words)') for name in names)
    code = _TEXT.format(shape=str(shape)[1:-1], arguments=arguments, names=', '.join(names))
    return Written(title, ('torch',), ('torch',), {'torch': code}, words)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's warnings of how it keeps constants in a graph."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _exported(module: nn.Module, inputs: tuple[Tensor, ...], together: bool) -> ExportedProgram:
    batch = Dim('batch', max=_LARGEST)
    each: Any = tuple({0: batch} for _ in inputs)
    try:
        with _quietly():
            program = torch.export.export(
                module, inputs, dynamic_shapes=(each,) if together else each, strict=True,
            )
    except Exception as error:  # what tracing raises is torch's to choose
        told = ' '.join(f'{type(error).__name__}: {error}'.split())[:300]
        raise RuntimeError(
            f'export: no library builds this model, and torch.export cannot write it as a program of its own ({told}).',
        ) from error
    for graph in program.graph_module.modules():
        for node in graph.graph.nodes if isinstance(graph, GraphModule) else ():
            # All else is where in the source code a node comes from.
            node.meta = {key: value for key, value in node.meta.items() if key == 'val'}
    return program
