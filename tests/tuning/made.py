"""Recipes with teachers, figures as they might have been measured, and the command line as a user gives it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from composer_kd.answers import Format
from composer_kd.cli import main
from composer_kd.recipes import parse_recipe
from composer_kd.tuning.measure import Measured
from composer_kd.tuning.spread import Spread
from composer_kd.tuning.storing import Stored
from composer_kd.tuning.subject import Subject, read_subject
from composer_kd.tuning.variants import variants_of
from tests.caching.made import digits, save_teacher

OWN = next(iter(variants_of({}, False)))


def once(seconds: float) -> Spread:
    return Spread.of([seconds])


def several(folder: Path, teachers: int = 3, **changes: Any) -> dict[str, Any]:
    """The digits with several teachers, a window, an interval and so on in ``changes`` of the distillation."""
    recipe = digits(folder)
    recipe['algorithms']['distillation'] = {'teachers': [
        {'checkpoint': str(save_teacher(folder / f't{i}.pt', recipe['model'], i)), 'name': f't{i}', 'weight': 1.0 + i}
        for i in range(teachers)
    ], 'check_batches': 0, **changes}
    return recipe


def subject(recipe: dict[str, Any], *teachers: str, ranks: int = 1) -> Subject:
    return read_subject(parse_recipe(recipe), teachers, ranks)


def measured(
    teachers: dict[str, float], step: float = 1.0, loss: float = 0.1, loader: float = 0.2, workers: int = 0,
    stored: Stored | None = None, prepare: str = OWN,
) -> Measured:
    return Measured(
        16, once(step), once(loader), workers, {name: {prepare: once(t)} for name, t in teachers.items()}, once(loss),
        once(loss), prepare, stored, '' if stored else 'not looked at',
    )


def answers(reading: float = 0.01, loss: float = 0.02, packing: float | None = 0.05, form: Format | None = None) -> Stored:
    return Stored(once(reading), once(loss), form or Format('dense', 10), 1.0, packing)


def tune(*arguments: Any) -> Any:
    """``composer-kd tune ARGUMENTS`` in this process: ``exit_code``, ``stdout``, ``stderr``; never a traceback."""
    result = CliRunner().invoke(main, ['tune', *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def tuned(*arguments: Any) -> Any:
    """The same, and it has to go well; as JSON."""
    result = tune(*arguments, '--json', '--seconds', 0.2)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def refused(*arguments: Any) -> str:
    """What is told in one paragraph, with exit status 1."""
    result = tune(*arguments)
    assert result.exit_code == 1, result.output
    assert result.stdout == ''
    assert result.stderr.startswith('error: ')
    assert result.stderr.count('\n') == 1
    return result.stderr.strip()
