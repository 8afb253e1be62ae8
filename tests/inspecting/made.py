"""Recipes, trained teachers, and the command line as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.recipes import load_recipe
from composer_kd.recipes.build import train
from tests.caching.made import save_teacher, text, write
from tests.models.words import tokenizer_folder
from tests.recipes.tiny import plain

VALIDATION = {'validation': {'data': {'name': 'digits', 'split': 'validation', 'batch_size': 128, 'noise': 0.2}}}


def digits(folder: Path, name: str = 'recipe', **changes: Any) -> Path:
    """A recipe over 200 digits with validation data, distilled at temperature 2 from ``FOLDER/teacher``."""
    recipe = plain(run_folder=str(folder / name), model={'name': 'digits_resnet', 'width': 8}, evaluators=VALIDATION)
    recipe['train_data'] |= {'train_size': 200}
    recipe['algorithms'] = {'distillation': {
        'teachers': [{'run': str(folder / 'teacher')}], 'loss': {'name': 'kl_divergence', 'temperature': 2.0},
    }}
    return write({**recipe, **changes}, folder, f'{name}.yaml')


def trained(path: Path, *overrides: str) -> Path:
    """The run folder of a training without a teacher."""
    recipe = load_recipe(path, ['algorithms=null', *overrides])
    return train(recipe).path


def masked(folder: Path) -> Path:
    """A recipe of a masked-language model, with its training text to validate on."""
    recipe = text(folder)
    data = {**recipe['train_data'], 'shuffle': False} if 'shuffle' in recipe['train_data'] else recipe['train_data']
    return write({**recipe, 'evaluators': {'text': {'data': data}}}, folder, 'masked.yaml')


def glue(folder: Path, task: str, lines: list[str], num_labels: int, metrics: list[str]) -> Path:
    """A recipe of a GLUE task whose two files hold the same lines, and weights beside it in ``teacher.pt``."""
    words = str(tokenizer_folder(folder / 'tokenizer'))
    for split in ('train', 'dev'):
        (folder / f'{split}.tsv').write_text('\n'.join(lines) + '\n')
    model = {
        'name': 'bert_classifier', 'tokenizer': words, 'vocab_size': 16, 'hidden_size': 16, 'num_hidden_layers': 1,
        'num_attention_heads': 2, 'intermediate_size': 32, 'max_position_embeddings': 32, 'num_labels': num_labels,
        'metrics': metrics,
    }
    data = {'name': 'glue', 'task': task, 'path': str(folder), 'tokenizer': words, 'max_seq_len': 16, 'batch_size': 4}
    save_teacher(folder / 'teacher.pt', model)
    return write(plain(
        run_folder=str(folder / 'run'), model=model, train_data=data, evaluators={'dev': {'data': data}},
    ), folder)


def inspect(*arguments: Any) -> Any:
    """``composer-kd inspect ARGUMENTS`` in this process: ``exit_code``, ``stdout``, ``stderr``; never a traceback."""
    result = CliRunner().invoke(main, ['inspect', *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def inspected(*arguments: Any, seconds: float = 0) -> Any:
    """The same, and it has to go well; as JSON."""
    result = inspect(*arguments, '--json', '--seconds', seconds)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: Any) -> str:
    """What is told in one paragraph, with exit status 1."""
    result = inspect(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ''
    assert result.stderr.startswith('error: ')
    assert result.stderr.count('\n') == 1
    return str(result.stderr.strip())
