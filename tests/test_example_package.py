"""The example package is what its page says: written from it, installed, and trained with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from composer_kd.runs import RunFolder

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / 'tests' / 'example_package' / 'README.md').read_text()

pytestmark = pytest.mark.slow


def files():
    return dict(re.findall(r'```(?:python|yaml)\n# ([\w./]+)\n(.*?)```', PAGE, re.DOTALL))


def run(command, folder, site):
    command = re.sub(r'^composer-kd ', f'{sys.executable} -m composer_kd.cli ', command)
    command = re.sub(r'^composer ', f'{sys.executable} -m composer.cli.launcher ', command)
    command = re.sub(r'^pip install (.*)', rf'{sys.executable} -m pip install -q --target {site} \1', command)
    return subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=240,
        env={**os.environ, 'PYTHONPATH': f'{site}{os.pathsep}{ROOT}', 'PIP_DISABLE_PIP_VERSION_CHECK': '1'},
    )


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder, site = tmp_path_factory.mktemp('rings-kd'), tmp_path_factory.mktemp('site')
    for name, text in files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    commands = re.search(r'```bash\n(.*?)```', PAGE, re.DOTALL)[1].strip().splitlines()
    said = []
    for command in commands:
        done = run(command, folder, site)
        assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
        said.append(done.stdout)
    return folder, site, said


def test_the_page_shows_every_file_it_lists():
    listed = set(re.findall(r'[\w./]+\.(?:py|yaml)', PAGE.split('## setup.py')[0]))
    names = {Path(name).name for name in files()}
    assert {Path(name).name for name in listed} - {'test_example_package.py'} <= names


def test_it_trains_with_all_of_them(made):
    folder, _, said = made
    earlier, taught, other = (RunFolder(folder / 'runs' / name).read_record() for name in (
        'earlier', 'taught', 'by-neighbours',
    ))
    assert earlier.kd is None
    assert earlier.evaluations[-1].metrics['test']['MulticlassAccuracy'] > 0.9
    assert taught.kd.active_batches == taught.batches == 16
    assert [teacher.origin for teacher in taught.teachers] == ['run:runs/earlier']
    assert [teacher.origin for teacher in other.teachers] == ['neighbours:7']
    assert other.kd.active_batches == 16
    assert 'valid' in said[2]
    assert 'hellinger' in said[2]


def test_its_settings_are_checked_as_ours(made):
    folder, site, _ = made
    done = run('composer-kd validate taught.yaml algorithms.distillation.losses[1].margn=1', folder, site)
    assert done.returncode == 1
    promised = re.search(r'    (error: .*)', PAGE)[1]
    assert promised in ' '.join(done.stderr.split()), done.stderr
    done = run('composer-kd validate neighbours.yaml algorithms.distillation.teachers[0].neighbours=9999', folder, site)
    assert done.returncode == 1
    assert 'expected how many, 1 to 256' in ' '.join(done.stderr.split())


def test_the_decorator_by_hand(tmp_path):
    snippet = re.search(r'```python\n# by hand\n(.*?)```', PAGE, re.DOTALL)[1]
    done = subprocess.run([sys.executable, '-c', snippet], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                          env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'tensor(1.)\n'
