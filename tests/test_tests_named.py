"""Pages name the tests that prove what they say: each is there."""

import ast
import re
from pathlib import Path

import pytest
from click import Group

from composer_kd.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'yamls').rglob('README.md'))]


def named():
    for page in PAGES:
        for path, _, name in re.findall(r'(tests/[\w/]+\.py)(::(\w+))?', page.read_text()):
            yield pytest.param(path, name, id=f'{page.parent.name}: {path}::{name}')


@pytest.mark.parametrize(('path', 'name'), sorted(named(), key=lambda param: param.id))
def test_it_is_there(path, name):
    tree = ast.parse((ROOT / path).read_text())
    tests = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')}
    assert name in tests if name else tests


def test_every_row_of_the_comparison_says_what_proves_it():
    table = (ROOT / 'README.md').read_text().split('## Beside other distillation software')[1].split('\n## ')[0]
    rows = [line.split('|')[1:] for line in table.splitlines() if line.startswith('| ')][1:]
    assert len(rows) > 15
    ours = [row[1].strip() for row in rows]
    assert all('tests/' in cell or '](#' in cell or cell == 'no' for cell in ours), ours
    assert 'no' in ours, 'what we lack is said too'


def commands(group, before='composer-kd'):
    for name in group.list_commands(None):
        command = group.get_command(None, name)
        if isinstance(command, Group):
            yield from commands(command, f'{before} {name}')
        else:
            yield f'{before} {name}'


def test_every_command_is_in_the_table():
    table = (ROOT / 'README.md').read_text().split('## Commands')[1].split('\n## ')[0]
    found = list(commands(main))
    assert len(found) >= 8
    for command in found:
        assert f'| `{command} ' in table, command
    for script in re.findall(r'scripts/\w+\.py', table):
        assert (ROOT / script).exists(), script
    for told in re.findall(r'`(composer-kd [a-z ]+?) [A-Z]', table):
        assert told in found
