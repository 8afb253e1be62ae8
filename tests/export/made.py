"""Run folders to export, and what an export is held against."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from composer_kd.models import apply_surgery, build_model
from composer_kd.runs import Evaluation, Record, RunFolder
from tests.recipes.tiny import plain

OURS = (b'composer_kd', b'composer-kd')


def hand_made(path: Path, batch: int = 6, **changes: Any) -> RunFolder:
    """A finished run of the tiny recipe with changes, its weights drawn and not trained."""
    folder = RunFolder(path)
    recipe = plain(run_folder=str(path), **changes)
    folder.write_recipe(recipe)
    torch.manual_seed(batch)
    model = apply_surgery(build_model(recipe['model']), recipe.get('algorithms', {}))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    folder.checkpoints.mkdir()
    torch.save({'state': {'model': model.state_dict()}}, folder.checkpoints / f'ep1-ba{batch}-rank0.pt')
    quality = Evaluation(batch=batch, epoch=1, sample=9, train_seconds=1, metrics={'test': {'Accuracy': 0.75}})
    folder.write_record(Record(
        run_name='a', status='finished', started_at='', updated_at='', evaluations=[quality],
    ))
    return folder


def texts(folder: Path) -> dict[str, bytes]:
    """All that lies in a folder, archives unpacked at every depth."""
    found = {}
    for path in sorted(folder.rglob('*')):
        found[path.name] = path.read_bytes() if path.is_file() else b''
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                found |= {f'{path.name}/{name}': archive.read(name) for name in archive.namelist()}
    return found


def assert_no_trace(folder: Path, *words: str) -> None:
    for name, content in texts(folder).items():
        for word in (*OURS, *map(os.fsencode, words)):
            assert word not in name.encode(), name
            assert word not in content, (name, word)


def by_its_card(folder: Path, inputs: dict[str, torch.Tensor], alone: bool = False) -> list[torch.Tensor]:
    """What the code in the README makes of the inputs, each piece of code in turn.

    With ``alone``, in a process of its own that must not need us.
    """
    pieces = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
    assert pieces
    torch.save(inputs, folder.parent / 'inputs.pt')
    call = 'model(**given)' if 'from transformers' in pieces[0] else 'model(*given.values())'
    after = (
        'import torch\nassert logits.isfinite().all()\n'
        "given = torch.load('../inputs.pt')\n"
        f'with torch.no_grad(): found.append({call})\n'
        "found[-1] = getattr(found[-1], 'logits', found[-1])\n"
    )
    code = 'found = []\n' + ''.join(f'{piece}\n{after}' for piece in pieces) + "torch.save(found, '../found.pt')\n"
    if alone:
        code += "import sys; assert not {'composer_kd', 'composer'} & set(sys.modules)"
        kept = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
        done = subprocess.run(
            [sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, timeout=240,
            env={**kept, 'OMP_NUM_THREADS': '1', 'HF_HUB_OFFLINE': '1'},
        )
        assert done.returncode == 0, done.stderr
    else:
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            exec(code, {})
    found: list[torch.Tensor] = torch.load(folder.parent / 'found.pt')
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / 'model.safetensors')
