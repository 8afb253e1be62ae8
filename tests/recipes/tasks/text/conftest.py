import importlib.util
from pathlib import Path

import pytest
from streaming import MDSWriter

from composer_kd.models import load_tokenizer

SCRIPT = Path(__file__).parents[4] / 'scripts/sample_data/text.py'


@pytest.fixture(scope='session')
def sample_text():
    spec = importlib.util.spec_from_file_location('sample_text', SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='session')
def prose(sample_text, tmp_path_factory):
    """A folder with the prose as MDS and its tokenizer."""
    folder = tmp_path_factory.mktemp('prose')
    sample_text.write(folder)
    return folder


@pytest.fixture(scope='session')
def tokenizer(prose):
    return load_tokenizer(str(prose / 'tokenizer'))


@pytest.fixture
def write(tmp_path):
    def written(values, column='text', encoding='str', split='train'):
        with MDSWriter(out=str(tmp_path / split), columns={column: encoding}) as shards:
            for value in values:
                shards.write({column: value})
        return str(tmp_path)
    return written
