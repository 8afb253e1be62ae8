"""Runs that were interrupted in mid-epoch end as those that were not: crops, MixUp, ColOut, masks, dropout and all."""


import pytest
import torch
from composer.core import Callback

from composer_kd.recipes import build_trainer, load_recipe, train
from composer_kd.recipes.build import forget
from composer_kd.teachers import read_weights
from tests.yamls.overlay import ROOT, overlay

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:composer', 'ignore::UserWarning:torchmetrics')

CASES = {
    # SAM is left out: Composer does not save the momentum of the optimizer that it wraps.
    'pictures': ('resnet50/hot.yaml', ['model.architecture=resnet50', 'algorithms.sam=null']),
    'shards of pictures': ('resnet50/mild.yaml', ['train_data.path=data/sample/imagenet-mds', 'algorithms.mixup={}']),
    'shards of text': ('bert/base.yaml', ['model.hidden_dropout_prob=0.3']),
    'pairs of sentences': ('glue/sst2.yaml', ['start_from=null', 'model.hidden_dropout_prob=0.3']),
}


class Interruption(Callback):
    def batch_end(self, state, logger):
        if state.timestamp.batch == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('case', CASES)
def test_it_ends_as_if_nothing_had_been(case, workers, workshop, tmp_path, monkeypatch):
    monkeypatch.chdir(workshop.root)
    name, changes = CASES[case]
    path = ROOT / 'yamls' / name

    def recipe(folder):
        return load_recipe(path, [*overlay(path), *changes, f'train_data.num_workers={workers}', f'run_folder={tmp_path / folder}',
                                  'eval_interval=0', 'max_duration=4ba'])
    whole = train(recipe('whole'))
    broken = build_trainer(recipe('parts'))
    broken.state.callbacks.append(Interruption())
    with pytest.raises(KeyboardInterrupt):
        broken.fit()
    broken.engine.close()
    forget(broken)
    parts = train(recipe('parts'))
    one, other = (read_weights(str(folder.latest_checkpoint())) for folder in (whole, parts))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one), [key for key in one if not torch.equal(one[key], other[key])][:5]
