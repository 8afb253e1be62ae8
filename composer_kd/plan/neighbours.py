"""The recipes around a recipe, in which that of a run which is not here yet is looked for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from composer_kd.recipes import Recipe, load_recipe

_LOOP = re.compile(r'\bfor (\w+) in ([^;]+); do (.*?); done', re.DOTALL)
_COMMAND = re.compile(r'scripts/train\.py (\S+\.yaml)((?:\s+[\w.]+=[^\s;]+)+)')
# Where data lies is nothing that a plan of another run need know.
_ELSEWHERE = ('train_data.', 'evaluators.')


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    r"""The recipes that a header starts with overrides, and those overrides; loops of the shell are gone through.

    Args:
        text: Of a recipe.

    Example:
        >>> text = '# for i in 1 2; do composer -n 1 scripts/train.py a.yaml \\\n#   seed=$i; done'
        >>> list(commands(text))
        [('a.yaml', ['seed=1']), ('a.yaml', ['seed=2'])]
    """
    header = '\n'.join(line[1:] for line in text.splitlines() if line.startswith('#')).replace('\\\n', ' ')
    loops = [
        body.replace(f'${name}', value).replace(f'${{{name}}}', value)
        for name, values, body in _LOOP.findall(header) for value in values.split()
    ]
    for part in (*loops, _LOOP.sub('', header)):
        for file, overrides in _COMMAND.findall(part):
            yield file, overrides.split()


class Neighbours:
    """The recipes in a folder and in the folders beside it.

    Recipes lie in folders by task, and a task may begin where another ended.

    Args:
        folder: The folder; ``None`` for no neighbours.
    """

    def __init__(self, folder: Path | None) -> None:
        found = [] if folder is None else [*sorted(folder.glob('*.yaml')), *sorted(folder.parent.glob('*/*.yaml'))]
        self._texts = {path: path.read_text(encoding='utf-8', errors='replace') for path in dict.fromkeys(found)}
        self._recipes: dict[Path, Recipe | None] = {}

    def _recipe(self, path: Path) -> Recipe | None:
        if path not in self._recipes:
            self._recipes[path] = _load(path, [])
        return self._recipes[path]

    def making(self, run_folder: str) -> tuple[str, Recipe] | None:
        """The recipe that would make the run of that folder, and how it is started: its file and what overrides it.

        It is looked for in the recipes themselves and in the commands that their headers show.
        """
        wanted = Path(run_folder)
        # Reading a recipe takes time, and most say their run's name in so many words.
        likely = [path for path, text in self._texts.items() if f'run_name: {wanted.name}\n' in text]
        for path in likely:
            recipe = self._recipe(path)
            if recipe is not None and Path(recipe.run_folder) == wanted:
                return str(path), recipe
        for text in self._texts.values():
            for file, overrides in commands(text):
                if any(wanted.name in word for word in overrides):
                    found = self._started(file, [word for word in overrides if not word.startswith(_ELSEWHERE)], wanted)
                    if found is not None:
                        return found
        for path in self._texts:
            recipe = self._recipe(path)
            if recipe is not None and Path(recipe.run_folder) == wanted:
                return str(path), recipe
        return None

    def _started(self, file: str, overrides: list[str], wanted: Path) -> tuple[str, Recipe] | None:
        for path in self._texts:
            if path.parts[-2:] == Path(file).parts[-2:]:
                recipe = _load(path, overrides)
                if recipe is not None and Path(recipe.run_folder) == wanted:
                    return ' '.join([str(path), *overrides]), recipe
        return None


def _load(path: Path, overrides: list[str]) -> Recipe | None:
    try:
        return load_recipe(path, overrides)
    except (ValueError, TypeError, OSError):
        return None  # a YAML file of something else
