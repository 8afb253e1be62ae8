import importlib.util
import os
import tempfile

# Small models on few cores: threads that wait for each other cost more than they give, and ranks and tests run beside
# each other. Set before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MKL_NUM_THREADS', '1')
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import pytest
import torch

torch.set_num_threads(1)

# llm-foundry needs an environment of its own; where it is not there, its tests are no part of the suite
collect_ignore = [] if importlib.util.find_spec('llmfoundry') else ['foundry']


@pytest.fixture(autouse=True)
def _same_start():
    torch.manual_seed(0)


@pytest.fixture
def nothing_is_left_behind(tmp_path, monkeypatch):
    """What is written to the folder for temporary files is gone in the end."""
    folder = tmp_path / 'temporary'
    folder.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(folder))
    yield
    assert not list(folder.iterdir())


# Files of many launches, minutes each: begun first, they run beside all the others instead of after them.
_LONG = (
    'test_killed.py', 'test_workers.py', 'test_two_ranks.py', 'test_elastic.py', 'test_readme.py', 'test_teacher_gone.py',
    'test_pretrain_distil_finetune.py', 'test_stored_on_two_ranks.py', 'test_ranks.py', 'test_disk.py',
)


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.name not in _LONG)
