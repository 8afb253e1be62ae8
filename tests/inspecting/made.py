"""Recipes, trained teachers, and the command line as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from composer_kd.cli import main
from composer_kd.recipes import load_recipe
from composer_kd.recipes.build import train
from tests.caching.made import text, write
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
