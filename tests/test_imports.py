"""The directions of imports: each room of the package may import only from those above it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / 'composer_kd'

# From the top down. Rooms on one line stand side by side and may not import from each other.
ROOMS = [
    ['names'],
    ['functional'],
    ['catalogue'],
    ['losses', 'features', 'components', 'runs', 'times'],
    ['schedule', 'values', 'batches', 'meter'],
    ['answers'],
    ['models'],
    ['teachers'],
    ['guard', 'share'],
    ['term'],
    ['layers'],
    ['entries'],
    ['settings'],
    ['decision', 'joining', 'changes'],
    ['ledger'],
    ['tapping'],
    ['teaching'],
    ['distillation'],
    ['callbacks'],
    ['recipes'],
    ['plan'],
    ['caching'],
    ['tuning'],
    ['inspecting'],
    ['convert', 'export'],
    ['studies'],
    ['report'],
    ['cli', 'public'],
]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
# What reads run folders only must start without torch, so it may import nothing that needs it.
TORCH_FREE = {'names': {'names'}, 'runs': {'names', 'runs'}, 'report': {'names', 'runs', 'report'}}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            modules = [node.module]
            if node.module == 'composer_kd':
                modules = [f'composer_kd.{alias.name}' for alias in node.names]
        found |= {m.split('.')[1] for m in modules if m.startswith('composer_kd.')}
    return found


FILES = [path for path in sorted(PACKAGE.rglob('*.py')) if path != PACKAGE / '__init__.py']


@pytest.mark.parametrize('path', FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_imports_only_from_above(path):
    room = room_of(path)
    assert room in LEVEL, f'{room} has no place among the rooms'
    for other in imported_rooms(path) - {room, '__version__'}:
        assert LEVEL[other] < LEVEL[room], f'{room} imports from {other}, which stands below or beside it'
        assert room not in TORCH_FREE or other in TORCH_FREE[room], f'{room} must not need torch; {other} does'


@pytest.mark.parametrize('path', FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_files_stay_readable(path):
    assert len(path.read_text().splitlines()) <= 320, 'a file this long is asking to be split'
    if path.name == '__init__.py':
        body = ast.parse(path.read_text()).body
        lazy = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == '__getattr__']
        allowed = {'Expr', 'Import', 'ImportFrom', 'Assign', 'AnnAssign', *(['If'] if lazy else [])}
        assert {type(node).__name__ for node in body if node not in lazy} <= allowed, '__init__.py only re-exports'


def test_every_folder_of_tests_is_a_package():
    folders = {path.parent for path in Path(__file__).parent.rglob('test_*.py')}
    # or two files of one name in different folders are one module to Python, and the second is never run
    assert not [folder for folder in folders if not (folder / '__init__.py').is_file()]
