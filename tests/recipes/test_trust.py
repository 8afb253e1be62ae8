"""Checkpoints that a recipe's training goes on from: those that would run code are refused, unless they are trusted."""

import inspect
import io
import os
import tarfile
import warnings

import composer.algorithms as ca
import numpy as np
import pytest
import torch
from composer.core import Algorithm, State
from composer.utils import checkpoint
from torch.distributed.checkpoint import filesystem

from composer_kd.recipes import build_trainer, parse_recipe, train
from composer_kd.recipes.build import forget
from composer_kd.recipes.errors import told_to_user
from composer_kd.recipes.folder import recipe_digest
from composer_kd.recipes.trust import runs_code
from tests.recipes.tiny import plain, recipe
from tests.teachers.bombs import Bomb

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning:composer', 'ignore::UserWarning:torchmetrics')

EVERYTHING = {'blurpool': {'min_channels': 4}, 'squeeze_excite': {'min_channels': 4}, 'label_smoothing': {},
              'ema': {'half_life': '2ba', 'update_interval': '1ba'}, 'sam': {}}


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    """The checkpoint of a short run, and what is in it."""
    folder = tmp_path_factory.mktemp('saved') / 'run'
    path = train(recipe(folder, max_duration='2ba', save_interval='2ba', save_metrics=True)).latest_checkpoint()
    return path, torch.load(path, weights_only=False)


def going_on(folder, **changes):
    """A training that goes on from a checkpoint, as far as its Trainer."""
    trainer = build_trainer(recipe(folder, max_duration='4ba', eval_interval=0, **changes))
    trainer.engine.close()
    forget(trainer)
    return trainer


def poisoned(saved, path, bomb):
    _, state = saved
    torch.save({**state, 'state': {**state['state'], 'more': bomb}}, path)
    return str(path)


def refused(bomb, key, file, folder, **changes):
    before = snapshot()
    with pytest.raises(ValueError, match=f'^{key}: .*holds more than tensors and plain values.*load_trusted: true') as error:
        going_on(folder, **changes)
    assert str(file) in str(error.value)
    assert told_to_user(error.value), 'told without a traceback'
    assert not bomb.mark.exists()
    assert snapshot() == before
    return str(error.value)


def snapshot():
    return (
        dict(os.environ), checkpoint.load_checkpoint, checkpoint.safe_torch_load, checkpoint.download_checkpoint,
        checkpoint._torch_load_with_validation, State._apply_required_algorithms, tarfile.TarFile.extractall,
        filesystem.pickle, np.ndarray in torch.serialization.get_safe_globals(),
    )


def test_a_checkpoint_with_a_bomb(saved, tmp_path):
    bomb = Bomb(tmp_path / 'mark')
    path = poisoned(saved, tmp_path / 'bomb.pt', bomb)
    assert 'it asks for posix.mkdir' in refused(bomb, 'load_path', path, tmp_path / 'run', load_path=path)
    trainer = going_on(tmp_path / 'trusted', load_path=path, load_trusted=True)
    assert bomb.mark.exists()
    assert trainer.state.timestamp.batch == 2


def test_one_that_a_run_would_resume_from(saved, tmp_path):
    bomb = Bomb(tmp_path / 'mark')
    folder = train(recipe(tmp_path / 'run', max_duration='2ba', save_interval='2ba'))
    folder.record_path.unlink()
    path = folder.latest_checkpoint()
    poisoned(saved, path, bomb)
    changes = {'max_duration': '2ba', 'save_interval': '2ba'}
    with pytest.raises(ValueError, match=r'^autoresume: .*holds more than tensors') as error:
        build_trainer(recipe(tmp_path / 'run', **changes))
    assert 'checkpoints' in str(error.value)
    assert not bomb.mark.exists()
    trainer = build_trainer(recipe(tmp_path / 'run', load_trusted=True, **changes))
    trainer.engine.close()
    assert bomb.mark.exists(), 'the key does not make it another run'


def test_in_an_archive(saved, tmp_path, monkeypatch):
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'temporary'))
    bomb = Bomb(tmp_path / 'mark')
    states = poisoned(saved, tmp_path / 'states', bomb)
    for name, member in (('bomb.tar', states), ('fine.tar', saved[0])):
        with tarfile.open(tmp_path / name, 'w') as archive:
            archive.add(member, 'composer_states.pt')
            archive.add(member, f'../../{name}-escaped')
    refused(bomb, 'load_path', 'bomb.tar', tmp_path / 'run', load_path=str(tmp_path / 'bomb.tar'))
    trainer = going_on(tmp_path / 'run', load_path=str(tmp_path / 'fine.tar'), overwrite=True)
    assert trainer.state.timestamp.batch == 2
    assert not list(tmp_path.rglob('*-escaped'))


def test_an_algorithm_that_shows_itself_as_code(saved, tmp_path):
    bomb = Bomb(tmp_path / 'mark')
    shown = f"BlurPool(min_channels=__import__('os').mkdir({str(bomb.mark)!r}) or 10**6)"
    _, state = saved
    algorithms = [*state['state']['algorithms'], ('BlurPool', {'repr': shown})]
    path = str(tmp_path / 'shown.pt')
    torch.save({**state, 'state': {**state['state'], 'algorithms': algorithms}}, path)
    assert 'its algorithm BlurPool shows itself as' in refused(bomb, 'load_path', path, tmp_path / 'run', load_path=path)
    refused(bomb, 'load_path', path, tmp_path / 'run', load_path=path, load_weights_only=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # no layer is large enough
        going_on(tmp_path / 'trusted', load_path=path, load_trusted=True)
    assert bomb.mark.exists()


CODE = [
    'BlurPool(exit())', 'BlurPool(min_channels=exit())', 'BlurPool(*[exit()])', 'BlurPool(**{"min_channels": exit()})',
    'BlurPool([exit() for _ in (1,)])', 'BlurPool(min_channels=1) or exit()', 'BlurPool(min_channels=1) + exit()',
    'BlurPool(min_channels=1).apply(1)', 'BlurPool.apply.__globals__["x"](1)', 'CutMix(1)', '__builtins__["exit"](1)',
    'BlurPool', 'BlurPool(lambda: exit())', 'BlurPool(f"{exit()}")', 'BlurPool(Time(exit()))', 'BlurPool(exec)',
    'BlurPool(Event.INIT.value)', 'BlurPool((x := exit()))', 'BlurPool(1).__class__', 'BlurPool(act_fn())',
]
UNREADABLE = ['<BlurPool object at 0x7f>', 'BlurPool(min_channels=1); exit()', 'BlurPool(' + '(' * 500, 'None, exit(']


@pytest.mark.parametrize('shown', CODE)
def test_what_is_taken_for_code(shown):
    compile(f'algorithms.{shown}', '', 'eval')
    assert runs_code('BlurPool', shown)


@pytest.mark.parametrize('shown', UNREADABLE)
def test_what_python_cannot_read_composer_cannot_run(shown):
    assert not runs_code('BlurPool', shown)
    with pytest.raises(SyntaxError):
        eval(f'algorithms.{shown}')


def test_composers_own_algorithms_show_themselves_as_calls():
    made = [
        ca.Alibi(512), ca.BlurPool(), ca.Factorize(), ca.GatedLinearUnits(), ca.GatedLinearUnits(act_fn=torch.relu), ca.GhostBatchNorm(),
        ca.LowPrecisionLayerNorm(), ca.LowPrecisionGroupNorm(), ca.NoOpModel(), ca.SqueezeExcite(), ca.GyroDropout(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        made.append(ca.StochasticDepth('ResNetBottleneck', drop_warmup='0.1dur'))
    assert not [shown for shown in made if runs_code(type(shown).__name__, repr(shown))]
    known = [kind for kind in vars(ca).values() if inspect.isclass(kind) and issubclass(kind, Algorithm)]
    assert {kind for kind in known if kind.required_on_load()} == {type(one) for one in made}


def test_those_that_are_not_evaluated_may_show_themselves_as_they_like():
    assert not runs_code('Mine', 'Mine(exit())')
    assert not runs_code('CutMix', 'CutMix(exit())')
    assert not runs_code(3, 'exit()')


def test_a_run_with_all_that_composer_saves_resumes(tmp_path):
    changes = {'algorithms': EVERYTHING, 'optimizer': {'name': 'decoupled_adamw', 'lr': 0.01}, 'save_metrics': True,
               'save_interval': '2ba', 'callbacks': {'speed_monitor': {}, 'lr_monitor': {}}}
    first = train(recipe(tmp_path / 'first', max_duration='2ba', **changes))
    trainer = going_on(tmp_path / 'second', load_path=str(first.latest_checkpoint()), **changes)
    assert trainer.state.timestamp.batch == 2


def test_an_algorithm_that_the_checkpoint_asks_for_is_still_added(tmp_path):
    first = train(recipe(tmp_path / 'first', max_duration='2ba', save_interval='2ba', algorithms={'blurpool': {'min_channels': 4}}))
    trainer = going_on(tmp_path / 'second', load_path=str(first.latest_checkpoint()))
    assert [type(one).__name__ for one in trainer.state.algorithms] == ['BlurPool']


@pytest.mark.parametrize('cut', [100, 10_000])
def test_a_truncated_checkpoint(saved, tmp_path, cut):
    path = tmp_path / 'cut.pt'
    path.write_bytes(saved[0].read_bytes()[:-cut])
    with pytest.raises(ValueError, match=r'^load_path: .*cut\.pt.* cannot be loaded; it may be truncated') as error:
        going_on(tmp_path / 'run', load_path=str(path))
    assert told_to_user(error.value)


def test_a_missing_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'^load_path: .*none\.pt. is not there'):
        going_on(tmp_path / 'run', load_path=str(tmp_path / 'none.pt'))


def test_other_trainers_load_as_they_did(saved, tmp_path):
    going_on(tmp_path / 'run', load_path=str(saved[0]))
    packed = io.BytesIO()
    torch.save(Bomb(tmp_path / 'mark'), packed)
    packed.seek(0)
    torch.load(packed, weights_only=False)
    assert (tmp_path / 'mark').exists()


def test_the_key_says_nothing_about_what_is_trained():
    assert recipe_digest(plain(load_trusted=True)) == recipe_digest(plain())
    assert parse_recipe(plain()).load_trusted is False
    with pytest.raises(ValueError, match='load_trusted: expected true or false'):
        parse_recipe(plain(load_trusted='mine'))
