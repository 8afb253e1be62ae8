"""Published weights as fragments: each is read over a recipe, and each of its losses is one there is."""

from pathlib import Path

import pytest
import torch
import yaml

from composer_kd import Distillation
from composer_kd.features import FEATURE_LOSSES
from composer_kd.losses import LOSSES
from composer_kd.recipes.layers import read_layers

ROOT = Path(__file__).parent.parent.parent
FRAGMENTS = sorted((ROOT / 'yamls' / 'fragments' / 'losses').glob('*.yaml'))


@pytest.mark.parametrize('path', FRAGMENTS, ids=lambda path: path.stem)
def test_a_fragment_over_a_recipe_is_a_distillation(path, tmp_path):
    mine = tmp_path / 'mine.yaml'
    bases = [str(ROOT / 'yamls' / 'digits' / 'baseline.yaml'), str(path)]
    mine.write_text(yaml.safe_dump({'base': bases, 'run_name': 'mine'}))
    recipe = read_layers(mine)
    assert recipe['model']['name'] == 'digits_resnet'
    said = recipe['algorithms']['distillation']
    kd = Distillation(torch.nn.Linear(2, 2), **said)
    assert len(kd.settings['losses']) == len(said['losses'])
    for entry, read in zip(said['losses'], kd.settings['losses'], strict=True):
        assert {key: read[key] for key in entry if key not in ('weight', 'projector')} == {
            key: value for key, value in entry.items() if key not in ('weight', 'projector')
        }


def test_every_paper_has_one():
    used = {entry['name'] for path in FRAGMENTS
            for entry in yaml.safe_load(path.read_text())['algorithms']['distillation']['losses']}
    own = {name for name, spec in FEATURE_LOSSES._items.items() if spec.function.__module__.startswith('composer_kd')}
    assert own | {'decoupled_kd', 'dist', 'standardized_kl'} <= used
    assert used <= {*LOSSES.names(), *FEATURE_LOSSES.names()}
    for path in FRAGMENTS:
        assert 'arXiv' in path.read_text().splitlines()[0]


def test_bases_are_merged_in_their_order(tmp_path):
    (tmp_path / 'a.yaml').write_text('seed: 1\noptimizer: {name: sgd, lr: 0.1}')
    (tmp_path / 'b.yaml').write_text('optimizer: {lr: 0.5}\nrun_name: b')
    mine = tmp_path / 'mine.yaml'
    mine.write_text('base: [a.yaml, b.yaml]\nrun_name: mine')
    assert read_layers(mine) == {'seed': 1, 'optimizer': {'name': 'sgd', 'lr': 0.5}, 'run_name': 'mine'}
    for wrong in ('[]', '[1]', '{a: b}'):
        mine.write_text(f'base: {wrong}')
        with pytest.raises(ValueError, match='base: expected the path of a recipe.*or a list of such'):
            read_layers(mine)
