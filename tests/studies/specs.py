"""Small studies from plain data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from composer_kd.studies.file.schema import StudySpec, parse_study

RECIPE = str(Path(__file__).parents[2] / 'yamls' / 'digits' / 'baseline.yaml')
METRIC = 'test/MulticlassAccuracy'


def study(**said: Any) -> StudySpec:
    return parse_study({'name': 'small', 'recipe': RECIPE, 'metric': METRIC, **said})


def comparison(teachers: Any = 'all', earlier: int = 2, durations: Any = ('2ep', '4ep'), **said: Any) -> StudySpec:
    return study(**{
        'methods': {'baseline': {}, 'always on': {'teachers': teachers}},
        'comparison': {'durations': list(durations), 'earlier': {'runs': earlier, 'duration': '8ep'}},
        **said,
    })


def search(teachers: Any = 'latest', runs: int | None = 4, **said: Any) -> StudySpec:
    budget = {'hours': 1.0} if runs is None else {'runs': runs}
    return study(**{
        'methods': {'alone': {}, 'taught': {'teachers': teachers}},
        'search': {'space': {'optimizer.lr': {'low': 0.01, 'high': 1.0, 'log': True}}, **budget},
        **said,
    })


def sequence(teachers: Any = 'latest', steps: int = 3, **said: Any) -> StudySpec:
    return study(**{
        'methods': {'alone': {}, 'taught': {'teachers': teachers}},
        'sequence': {'steps': [{'train_data.train_size': 100 * (step + 1)} for step in range(steps)]},
        **said,
    })
