"""What makes any recipe in yamls/ train for four batches on sample data: sizes and paths, shallower networks where the
depth is not the point, a learning rate that tiny batches of tiny pictures bear, and no worker processes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from composer_kd.recipes import load_recipe, train
from composer_kd.recipes.schema import Recipe

ROOT = Path(__file__).parent.parent.parent
STUDIES = sorted((ROOT / 'yamls' / 'studies').glob('*.yaml'))
RECIPES = sorted(set((ROOT / 'yamls').rglob('*.yaml')) - set(STUDIES) - set((ROOT / 'yamls' / 'fragments').rglob('*.yaml')))
SAMPLE = 'data/sample'
BATCHES = 4
SMALL_BERT = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'intermediate_size': 64,
              'max_position_embeddings': 64, 'vocab_size': 2000}

_SMALL = {'hidden_size': 32, 'num_hidden_layers': 2, 'num_attention_heads': 2, 'max_position_embeddings': 64,
          'vocab_size': 2000}
SMALL_CAUSAL = {'gpt2': _SMALL, 'llama': {**_SMALL, 'intermediate_size': 64, 'num_key_value_heads': 1}}


def names(path: Path) -> str:
    return str(path.relative_to(ROOT / 'yamls').with_suffix(''))


def data_overlay(key: str, data: dict, classes: int, train_data: bool) -> dict[str, object]:
    """Of one data entry, by its name."""
    changes: dict[str, object] = {} if data['name'] == 'digits' else {'num_workers': 0}
    if 'batch_size' in data:
        changes['batch_size'] = 8
    if data['name'] == 'imagenet':
        changes |= {'crop_size': 32, **({} if train_data else {'resize_size': 36})}
        changes['path'] = f'{SAMPLE}/imagenet{classes if classes == 1000 else ""}'
    elif data['name'] == 'cifar':
        changes['path'] = f'{SAMPLE}/cifar{classes}'
    elif data['name'] in ('masked_text', 'causal_text'):
        changes |= {'path': f'{SAMPLE}/c4', 'max_seq_len': 32, 'tokenizer': f'{SAMPLE}/tokenizer'}
    elif data['name'] == 'glue':
        changes |= {'path': f'{SAMPLE}/glue', 'max_seq_len': 32, 'tokenizer': f'{SAMPLE}/tokenizer'}
    return {f'{key}.{name}': value for name, value in changes.items()}


def overlay(path: Path) -> list[str]:
    """``key=value`` for the recipe at ``path``."""
    recipe = load_recipe(path)
    changes: dict[str, object] = {
        'max_duration': f'{BATCHES}ba', 'save_interval': '2ba', 'eval_interval': '2ba', 'progress_bar': 'false',
    }
    classes = 10
    if recipe.model['name'] == 'resnet':
        # Published weights have 1,000 outputs, whatever the data.
        classes = 1000 if 'torchvision' in str(recipe.algorithms) else 10
        changes |= {'model.num_classes': classes, 'optimizer.lr': 1e-4}
        # Teachers stay as deep as their recipes say, and so does what has to have bottlenecks.
        if recipe.model['architecture'] == 'resnet50' and 'stochastic_depth' not in recipe.algorithms:
            changes['model.architecture'] = 'resnet18'
    elif recipe.model['name'] == 'resnet_cifar':
        changes['model.depth'] = 20
        classes = recipe.model['num_classes']
    elif recipe.model['name'].startswith('bert'):
        changes |= {f'model.{key}': value for key, value in SMALL_BERT.items()}
        changes['model.hidden_size'] = {'bert-small': 16, 'bert-large': 48}.get(recipe.run_name.split('-kd')[0], 32)
    elif recipe.model['name'] in SMALL_CAUSAL:
        changes |= {f'model.{key}': value for key, value in SMALL_CAUSAL[recipe.model['name']].items()}
    changes |= data_overlay('train_data', recipe.train_data, classes, True)
    for label, evaluator in recipe.evaluators.items():
        changes |= data_overlay(f'evaluators.{label}.data', evaluator.data, classes, False)
        changes[f'evaluators.{label}.subset_num_batches'] = 2
    if recipe.precision is not None:
        changes['precision'] = 'null'
    if recipe.device_train_microbatch_size is not None:
        changes['device_train_microbatch_size'] = 4
    for scheduler in recipe.schedulers:
        if 't_warmup' in scheduler:
            changes['scheduler.t_warmup'] = '1ba'
    teachers = recipe.algorithms.get('distillation', {}).get('teachers', [])
    if any(teacher.get('cache', {}).get('format', {}) != 'dense' for teacher in teachers if 'cache' in teacher):
        small = [{**teacher, 'cache': {**teacher['cache'], 'format': {'name': 'top_k', 'k': 3}}} for teacher in teachers]
        changes['algorithms.distillation.teachers'] = json.dumps(small)
    return [f'{key}={value}' for key, value in changes.items()]


class Workshop:
    """A folder where recipes train as they stand: sample data under data/sample, earlier runs under runs/."""

    def __init__(self, root: Path) -> None:
        self.root = root
        made = subprocess.run(
            [sys.executable, str(ROOT / 'scripts/make_sample_data.py'), str(root / SAMPLE)], capture_output=True, text=True,
        )
        assert made.returncode == 0, made.stderr
        self._thousand_classes(root / SAMPLE / 'imagenet', root / SAMPLE / 'imagenet1000')
        self._published(root / 'torch' / 'hub' / 'checkpoints')
        self._makers = {Path(load_recipe(path).run_folder).as_posix(): path for path in RECIPES}

    @staticmethod
    def _thousand_classes(pictures: Path, out: Path) -> None:
        for split in ('train', 'val'):
            picture = next((pictures / split).rglob('*.JPEG'))
            for index in range(1000):
                folder = out / split / f'n{index:08d}'
                folder.mkdir(parents=True)
                (folder / 'a.JPEG').hardlink_to(picture)

    @staticmethod
    def _published(hub: Path) -> None:
        """Random weights under the name of torchvision's published ones."""
        hub.mkdir(parents=True)
        url = torchvision.models.ResNet101_Weights.IMAGENET1K_V2.url
        torch.save(torchvision.models.resnet101().state_dict(), hub / url.rsplit('/', 1)[1])

    def earlier(self, recipe: Recipe) -> None:
        """Make the earlier runs that a recipe asks for, each by the recipe of that run folder."""
        teachers = recipe.algorithms.get('distillation', {}).get('teachers', [])
        wanted = [str(teacher.get('run') or teacher.get('checkpoint', '')) for teacher in teachers]
        if recipe.start_from is not None:
            wanted.append(str(recipe.start_from.run))
        for text in wanted:
            folder = '/'.join(text.split('/checkpoints/')[0].split('/'))
            if folder and not (self.root / folder / 'record.json').exists():
                self._make(folder)

    def _make(self, folder: str) -> None:
        maker = self._makers.get(folder) or self._makers.get(re.sub(r'-(seed)?\d+$', '', folder))
        assert maker is not None, f'no recipe in yamls/ makes {folder}'
        self.earlier(load_recipe(maker))
        train(load_recipe(maker, [*overlay(maker), 'max_duration=2ba', 'seed=5', f'run_folder={folder}']))


@pytest.fixture(scope='session')
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp('workshop'))
