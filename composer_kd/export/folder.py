"""The folder of an export: whole or not there, replaced only where nothing but an export would be lost."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from composer_kd.recipes.errors import is_ours

LIST = 'SHA256SUMS'
"""Digests of all other files, as ``sha256sum -c`` reads them: what an export wrote can be told by it."""

_OURS = (b'composer_kd', b'composer-kd')
# A shorter path may stand in the bytes of weights by chance.
_LEAST = 8


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _strangers(folder: Path) -> list[str]:
    """What lies in a folder that no export wrote, or that was changed since."""
    try:
        lines = (folder / LIST).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    listed = {name: digest for digest, _, name in (line.partition('  ') for line in lines)}
    return sorted(
        path.name for path in folder.iterdir()
        if path.name != LIST and not (path.is_file() and listed.get(path.name) == _digest(path))
    ) or ([] if listed else [LIST])


def _check(to: Path, overwrite: bool) -> None:
    if to.exists() and not to.is_dir():
        raise ValueError(f"to: expected a folder, and '{to}' is a file. Give a folder that is not there yet.")
    if not to.exists():
        return
    if os.path.ismount(to) or Path.cwd().is_relative_to(to):
        raise ValueError(
            f"to: '{to}' is where you stand or where a disk is mounted, so it cannot be put in place as a whole. Give "
            f"a folder in it, such as '{to / 'model'}'.",
        )
    if not any(to.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"to: expected a folder that is missing or empty, and '{to}' holds {sorted(os.listdir(to))[0]!r}. Give "
            'another one; overwrite (--overwrite) replaces what an earlier export wrote.',
        )
    strangers = _strangers(to)
    if strangers:
        raise ValueError(
            f"to: '{to}' holds what no export wrote, or what was changed since: {', '.join(strangers[:3])}"
            f"{', ...' if len(strangers) > 3 else ''}. Move it away, or give another folder; nothing was touched.",
        )


@contextmanager
def new_folder(to: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write to, which becomes ``to`` in one step when all went well, and is removed otherwise.

    Args:
        to: Where it shall be in the end; an absolute path without links.
        overwrite: Whether an earlier export there is replaced.

    Yields:
        The folder to write to, beside ``to``.

    Raises:
        ValueError: If ``to`` is a file, holds what would be lost, or cannot be written.
    """
    temporary = to.with_name(f'.{to.name}.{os.getpid()}.tmp')
    try:
        _check(to, overwrite)
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        _seal(temporary)
        _put_in_place(temporary, to)
    except (OSError, SafetensorError) as error:
        if isinstance(error, FileNotFoundError) and is_ours(error):
            raise  # what is missing is the run's
        raise ValueError(
            f"to: cannot write '{to}': {error}. Give a folder where you may write, on a disk with room for the model.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _put_in_place(temporary: Path, to: Path) -> None:
    if not to.exists():
        os.rename(temporary, to)
        return
    old = temporary.with_suffix('.old')
    os.rename(to, old)
    try:
        os.rename(temporary, to)
    except OSError:
        os.rename(old, to)
        raise
    shutil.rmtree(old)


def _seal(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    (folder / LIST).write_text(''.join(f'{_digest(folder / name)}  {name}\n' for name in names), encoding='utf-8')
    for name in names:
        # Some libraries make their files readable by their owner alone.
        shutil.copymode(folder / LIST, folder / name)


def refuse_traces(folder: Path, run: Path) -> None:
    """Refuse an export that names this package or the run's folder, in a file's name or anywhere in a file.

    Args:
        folder: What was written.
        run: The run folder.

    Raises:
        RuntimeError: Naming the file.
    """
    place = os.fsencode(run.resolve())
    words = (*_OURS, place) if len(place) >= _LEAST else _OURS
    for path in sorted(folder.iterdir()):
        found = next((word for word in words if _holds(path, word)), None)
        if found is not None:
            raise RuntimeError(
                f"export: {path.name} would hold the text '{os.fsdecode(found)}', and nothing of an export may say "
                'where it comes from. It is in what the recipe says: names of classes, evaluators or the tokenizer.',
            )


def _holds(path: Path, word: bytes) -> bool:
    if word in path.name.encode() or not path.stat().st_size:
        return word in path.name.encode()
    # Archives of torch store their parts as they are, so the bytes of the file are the bytes of its parts.
    with path.open('rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(word) >= 0
