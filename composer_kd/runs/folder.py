"""A run folder on disk: its files, and refusals that say what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from composer_kd.runs import checkpoints
from composer_kd.runs.files import write_atomically
from composer_kd.runs.record import SCHEMA_VERSION, Record


class RunFolder:
    """The folder of one run: ``recipe.yaml``, ``record.json``, ``checkpoints/`` and ``logs/``.

    Making the object touches nothing on disk; reading refuses what is missing or broken.

    Args:
        path: The folder.

    Attributes:
        path: The folder.
        recipe_path: ``recipe.yaml``, the resolved recipe: enough to make the run again.
        record_path: ``record.json``, see :class:`~composer_kd.runs.Record`.
        checkpoints: The folder of checkpoints.
        logs: The folder of logs.

    Example:
        >>> import tempfile
        >>> folder = RunFolder(tempfile.mkdtemp() + '/my-run')
        >>> folder.write_recipe({'seed': 17})
        >>> folder.read_recipe()
        {'seed': 17}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.recipe_path = self.path / 'recipe.yaml'
        self.record_path = self.path / 'record.json'
        self.checkpoints = self.path / 'checkpoints'
        self.logs = self.path / 'logs'

    def __repr__(self) -> str:
        return f'RunFolder({str(self.path)!r})'

    def read_recipe(self) -> dict[str, Any]:
        """The resolved recipe.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it is no run folder, or its recipe cannot be read.
        """
        text = self._read(self.recipe_path)
        try:
            recipe = yaml.safe_load(text)
        except yaml.YAMLError as error:
            problem = ' '.join(str(error).split())
            raise ValueError(
                f"Cannot read the recipe of run folder '{self.path}': {self.recipe_path.name} is not valid YAML "
                f'({problem}). Mend the file by hand, or make the run again.',
            ) from None
        if not isinstance(recipe, dict):
            raise ValueError(
                f"Cannot read the recipe of run folder '{self.path}': {self.recipe_path.name} should hold a mapping, "
                f'and holds {type(recipe).__name__}. Mend the file by hand, or make the run again.',
            )
        return recipe

    def read_record(self) -> Record:
        """The record.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If it is no run folder, its record is broken, or a newer composer_kd wrote it.
        """
        text = self._read(self.record_path)
        try:
            return Record.from_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            problem = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            if error.error_count() > 1:
                problem += f', and {error.error_count() - 1} more'
        except ValueError as error:
            problem = str(error)
            if f'up to {SCHEMA_VERSION}' in problem:
                raise ValueError(
                    f"Cannot read the record of run folder '{self.path}': {problem}. "
                    f'Upgrade composer_kd to the version that made the run, or newer.',
                ) from None
        raise ValueError(
            f"Cannot read the record of run folder '{self.path}': {self.record_path.name} is damaged or was not "
            f'written by composer_kd ({problem}). Copy the folder again from where it was made, or make the run again.',
        )

    def write_recipe(self, recipe: dict[str, Any]) -> None:
        """Replace ``recipe.yaml`` atomically; the folder is made if it is missing.

        Raises:
            TypeError: If the recipe holds anything but plain data.
        """
        try:
            text = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
        except yaml.representer.RepresenterError as error:
            raise TypeError(
                f"Cannot write the recipe of run folder '{self.path}': expected mappings, sequences, strings, numbers, "
                f'booleans and null alone, got {error.args[-1]!r}. Give its name and settings instead.',
            ) from None
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.recipe_path, text)

    def write_record(self, record: Record) -> None:
        """Replace ``record.json`` atomically; the folder is made if it is missing."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomically(self.record_path, record.to_json())

    def latest_checkpoint(self) -> Path:
        """The latest checkpoint: a file, or the folder of a sharded one.

        It is what ``checkpoints/latest-rank0.pt`` points to, even if that was damaged since: to pass it over would be
        to load older weights. Where the link is missing or dangling (a run killed between two checkpoints, a folder
        copied without links, checkpoints deleted by hand), it is the checkpoint with the highest batch in its name
        that was not cut short while it was written.

        Raises:
            FileNotFoundError: If there is no such folder, or no checkpoint in it.
            ValueError: If the path is no folder.
        """
        self._check_folder()
        latest = checkpoints.target_of(self.checkpoints / 'latest-rank0.pt')
        if latest is not None and checkpoints.is_checkpoint(latest):
            return latest
        found = checkpoints.newest(self.checkpoints)
        if found is None:
            raise FileNotFoundError(
                f"Run folder '{self.path}' has no checkpoint: nothing usable in '{self.checkpoints}'. "
                f"Set 'save_interval' in the recipe and make the run again, or give the path of a checkpoint itself.",
            )
        return found

    def _check_folder(self) -> None:
        if not self.path.exists():
            raise FileNotFoundError(
                f"There is no run folder '{self.path}'. Check the path (it is taken from the current folder); "
                f"a recipe's 'run_folder' says where its run is kept.",
            )
        if not self.path.is_dir():
            raise ValueError(
                f"'{self.path}' is a file, and a run folder is expected. Give the folder that holds record.json, "
                f'or name a file as a checkpoint instead.',
            )

    def _read(self, path: Path) -> str:
        self._check_folder()
        try:
            return path.read_text(encoding='utf-8')
        except FileNotFoundError:
            raise ValueError(
                f"'{self.path}' is no run folder: it has no {path.name}. Give the folder that a training wrote "
                f"(a recipe's 'run_folder'); if that training stopped before its first step, run it again.",
            ) from None
        except OSError as error:
            raise ValueError(
                f"Cannot read {path.name} of run folder '{self.path}': {error.strerror}. See to its permissions, or "
                f'make the run again.',
            ) from None
        except UnicodeDecodeError:
            raise ValueError(
                f"Cannot read {path.name} of run folder '{self.path}': it is not text, so it is damaged. "
                f'Copy the folder again from where it was made, or make the run again.',
            ) from None
