"""Recipes with a teacher whose answers are stored, small, and the command line as a user gives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from click.testing import CliRunner
from streaming import MDSWriter

from composer_kd.answers import Store
from composer_kd.answers.keys import split_key
from composer_kd.cli import main
from composer_kd.models import build_model
from tests.models.words import tokenizer_folder
from tests.recipes.tiny import plain

ROOT = Path(__file__).parent.parent.parent
WIDTH = 8


def save_teacher(path: Path, model: Any, seed: int = 1) -> Path:
    """The weights of a model of that recipe, untrained."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.save(build_model(model).state_dict(), path)
    return path


def digits(folder: Path, **changes: Any) -> dict[str, Any]:
    """Two epochs of six batches of 16 of 100 digits, distilled from ``teacher.pt`` there, which is made."""
    recipe = plain(run_folder=str(folder / 'run'), model={'name': 'digits_resnet', 'width': WIDTH})
    if not (folder / 'teacher.pt').exists():
        save_teacher(folder / 'teacher.pt', recipe['model'])
    recipe['algorithms'] = {'distillation': {'teachers': [{'checkpoint': str(folder / 'teacher.pt')}], 'check_batches': 0}}
    recipe.pop('evaluators')
    return {**recipe, **changes}


def text(folder: Path, samples: int = 40, **data: Any) -> dict[str, Any]:
    """Two epochs of a masked-language model on sentences of a few words, from a folder of MDS shards."""
    if not (folder / 'text').exists():
        with MDSWriter(out=str(folder / 'text' / 'train'), columns={'text': 'str'}, size_limit=600) as shards:
            for n in range(samples):
                shards.write({'text': 'the cat sat a dog ran ' * (n % 7 + 1)})
    if not (folder / 'tokenizer').exists():
        tokenizer_folder(folder / 'tokenizer')
    words = str(folder / 'tokenizer')
    model = {
        'name': 'bert_masked_lm', 'tokenizer': words, 'vocab_size': 16, 'hidden_size': 16, 'num_hidden_layers': 1,
        'num_attention_heads': 2, 'intermediate_size': 32, 'max_position_embeddings': 32,
    }
    return {
        **digits(folder), 'model': model,
        'train_data': {'name': 'masked_text', 'path': str(folder / 'text'), 'tokenizer': words, 'split': 'train',
                       'max_seq_len': 32, 'batch_size': 8, **data},
        'algorithms': {'distillation': {
            'teachers': [{'checkpoint': str(save_teacher(folder / 'bert.pt', model)), 'name': 'bert'}], 'check_batches': 0,
        }},
    }


def write(recipe: dict[str, Any], folder: Path, name: str = 'recipe.yaml') -> Path:
    path = folder / name
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path


def cache(*arguments: Any) -> Any:
    """``composer-kd cache ARGUMENTS`` in this process: ``exit_code``, ``stdout``, ``stderr``; never a traceback."""
    result = CliRunner().invoke(main, ['cache', *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def written(*arguments: Any) -> Any:
    """The same, and it has to go well."""
    result = cache(*arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments: Any) -> str:
    """What is told in one paragraph, with exit status 1."""
    result = cache(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ''
    told = [line for line in result.stderr.splitlines() if line.startswith('error: ')]
    assert len(told) == 1, result.stderr
    assert result.stderr.splitlines()[-1] == told[0], 'told last'
    return told[0]


def start(*arguments: Any, ranks: int | None = None, log: Path, part: int = 500) -> subprocess.Popen[bytes]:
    """The same in a process of its own, or by the launcher on several ranks, with smaller parts."""
    command = [sys.executable, str(Path(__file__).parent / 'cache_script.py'), str(part), *map(str, arguments)]
    if ranks is not None:
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), *command[1:]]
    with open(log, 'wb') as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'}, start_new_session=True,
        )


def answers(path: Path | str) -> dict[int, bytes]:
    """Every answer of a store by its key, check included; each part is looked at, each key there once."""
    store = Store.open(path)
    found: dict[int, bytes] = {}
    loose = dict(zip(store._loose.tolist(), store._loose_rows.tolist(), strict=True))
    for first, count, begin in zip(store._first.tolist(), store._count.tolist(), store._begin.tolist(), strict=True):
        loose |= {first + i: begin + i for i in range(count)}
    for key, row in loose.items():
        found[key] = bytes(store._shards.sample(row))
    assert len(found) == store.samples, 'no answer is there twice'
    return found


def left_over(path: Path | str) -> list[str]:
    """What no reader would look at: parts that were never finished."""
    return [found.name for found in Path(path).rglob('.*')]


def manifest(path: Path) -> Any:
    return json.loads((path / 'manifest.json').read_text())


def keys(path: Path) -> list[tuple[int, int]]:
    """View and index of every answer."""
    return sorted(split_key(key) for key in answers(path))
