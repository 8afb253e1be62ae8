"""llm-foundry's own command trains with distillation that its YAML asks for, taught by an earlier run of the same command.

These tests need llm-foundry, which asks for other versions of much that we ask for, so they have an environment of their own:
``make test-foundry``. ``make test`` leaves them out.
"""

import os
import subprocess
import sys

import numpy as np
import pytest
import yaml
from streaming import MDSWriter
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

WORDS, LENGTH, BATCHES = 32, 16, 6


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """A tokenizer, and text in which a word says much about the next."""
    folder = tmp_path_factory.mktemp('foundry')
    backend = Tokenizer(WordLevel({'<end>': 0, '?': 1, **{f'w{n}': n for n in range(2, WORDS)}}, unk_token='?'))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token='?', eos_token='<end>', pad_token='<end>', bos_token='<end>',
    ).save_pretrained(folder / 'tokenizer')
    random = np.random.default_rng(0)
    with MDSWriter(out=str(folder / 'data' / 'train'), columns={'tokens': 'ndarray:int64'}) as shards:
        for _ in range(96):
            begin = random.integers(2, WORDS)
            shards.write({'tokens': (2 + (begin + np.arange(LENGTH) * 3) % (WORDS - 2)).astype(np.int64)})
    return folder


def settings(root, name, **changes):
    return {
        'max_seq_len': LENGTH, 'seed': 17, 'run_name': name, 'progress_bar': False, 'log_to_console': False,
        'variables': {'data': str(root / 'data')},
        'model': {
            'name': 'mpt_causal_lm', 'd_model': 32, 'n_heads': 2, 'n_layers': 2, 'expansion_ratio': 2,
            'max_seq_len': LENGTH, 'vocab_size': WORDS, 'init_device': 'cpu', 'attn_config': {'attn_impl': 'torch'},
            'loss_fn': 'torch_crossentropy',
        },
        'tokenizer': {'name': str(root / 'tokenizer'), 'kwargs': {'model_max_length': LENGTH}},
        'train_loader': {
            'name': 'text', 'num_workers': 1, 'drop_last': True,
            'dataset': {'local': str(root / 'data'), 'split': 'train', 'shuffle': True, 'max_seq_len': LENGTH,
                        'shuffle_seed': 17},
        },
        'scheduler': {'name': 'constant_with_warmup', 't_warmup': '1ba'},
        'optimizer': {'name': 'decoupled_adamw', 'lr': 0.01, 'betas': [0.9, 0.95], 'eps': 1e-8, 'weight_decay': 0.0},
        'max_duration': f'{BATCHES}ba', 'eval_interval': 0, 'eval_first': False, 'global_train_batch_size': 8,
        'device_eval_batch_size': 8, 'device_train_microbatch_size': 4, 'precision': 'fp32',
        'save_folder': str(root / name / 'checkpoints'), 'save_interval': f'{BATCHES}ba',
        'loggers': {'tensorboard': {'log_dir': str(root / name / 'tensorboard'), 'flush_interval': 1}},
        **changes,
    }


def train(root, name, ranks=1, **changes):
    """Run ``llmfoundry train`` on a YAML; the log, and the weights in the end."""
    (root / f'{name}.yaml').write_text(yaml.safe_dump(settings(root, name, **changes)))
    script = 'from llmfoundry.cli.cli import app; app()'
    command = [sys.executable, '-c', script, 'train', str(root / f'{name}.yaml')]
    if ranks > 1:
        (root / 'train.py').write_text(script)
        command = [sys.executable, '-m', 'composer.cli.launcher', '-n', str(ranks), str(root / 'train.py'), 'train',
                   str(root / f'{name}.yaml')]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=root, env={
        **os.environ, 'OMP_NUM_THREADS': '1', 'TOKENIZERS_PARALLELISM': 'false', 'HF_HUB_OFFLINE': '1',
    })


def logged(root, name):
    """The metrics of a run, by name, in the order of its batches."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, dict[int, float]] = {}
    for file in sorted((root / name / 'tensorboard').rglob('events.out.tfevents.*')):
        events = EventAccumulator(str(file)).Reload()
        for key in ('loss/train/kd', 'loss/train/base', 'loss/train/total', 'kd/active'):
            if key in events.Tags()['scalars']:
                found.setdefault(key, {}).update({event.step: event.value for event in events.Scalars(key)})
    return {key: [value for _, value in sorted(steps.items())] for key, steps in found.items()}


def weights(root, name):
    import torch

    return torch.load(root / name / 'checkpoints' / 'latest-rank0.pt', weights_only=False)['state']['model']


@pytest.fixture(scope='module')
def earlier(root):
    done = train(root, 'earlier')
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return root / 'earlier' / 'checkpoints' / 'latest-rank0.pt'


def kd(earlier, **changes):
    return {'distillation': {'teachers': [{'checkpoint': str(earlier)}], 'check_batches': 0, **changes}}


def test_the_entry_point_is_there():
    from importlib.metadata import entry_points

    from composer_kd import Distillation
    point, = [p for p in entry_points(group='llmfoundry_algorithms') if p.name == 'distillation']
    assert point.load() is Distillation


def test_it_is_taught_by_an_earlier_run(root, earlier):
    done = train(root, 'taught', seed=5, algorithms=kd(earlier, end=f'{BATCHES - 1}ba'))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = logged(root, 'taught')
    assert found['kd/active'] == [1] * (BATCHES - 1) + [0]
    assert len(found['loss/train/kd']) == BATCHES - 1
    assert all(value > 0 for value in found['loss/train/kd'])
    for kd_loss, base, total in zip(
        found['loss/train/kd'], found['loss/train/base'], found['loss/train/total'], strict=False,
    ):
        assert total == pytest.approx(0.1 * base + 0.9 * kd_loss, rel=1e-3)


def test_its_own_teacher_has_nothing_to_say(root, earlier):
    """A student that begins where the teacher stands: a KD loss of nothing in the first batch."""
    done = train(root, 'same', load_path=str(earlier), load_weights_only=True, algorithms=kd(earlier))
    assert done.returncode == 0, done.stderr[-4000:]
    found = logged(root, 'same')
    assert found['loss/train/kd'][0] == pytest.approx(0, abs=1e-6)
    assert found['loss/train/kd'][-1] > 1e-5


def test_weight_zero_is_no_distillation(root, earlier):
    plain = train(root, 'plain', seed=5)
    zero = train(root, 'zero', seed=5, algorithms=kd(earlier, kd_loss_weight=0.0, base_loss_weight=1.0))
    assert (plain.returncode, zero.returncode) == (0, 0), zero.stderr[-4000:]
    import torch
    one, other = weights(root, 'plain'), weights(root, 'zero')
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_two_ranks(root, earlier):
    done = train(root, 'two', ranks=2, seed=5, algorithms=kd(earlier))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    one = train(root, 'one', seed=5, algorithms=kd(earlier))
    assert one.returncode == 0, one.stderr[-4000:]
    two, alone = logged(root, 'two'), logged(root, 'one')
    assert two['kd/active'] == alone['kd/active'] == [1] * BATCHES
    assert two['loss/train/kd'][0] == pytest.approx(alone['loss/train/kd'][0], rel=0.5)  # other samples, the same models


def test_a_misspelt_setting_is_answered(root, earlier):
    done = train(root, 'wrong', algorithms={'distillation': {'teachers': [{'checkpont': str(earlier)}]}})
    assert done.returncode != 0
    assert "unknown key 'checkpont'. Did you mean 'checkpoint'?" in ' '.join((done.stdout + done.stderr).split())


def test_versions_are_those_that_are_promised():
    from importlib.metadata import version

    assert version('llm-foundry') == '0.22.0'
    assert version('mosaicml').startswith('0.32.')
