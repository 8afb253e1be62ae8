"""Which of a run's checkpoints are whole, and which were cut short while they were written. Imports no torch."""

from __future__ import annotations

import os
import re
import shutil
import zipfile
from pathlib import Path

_OTHER_RANK = re.compile(r'rank[1-9]')
_PACKED = re.compile(r'\.(tar|tgz|bz2|gz|lz4|lzma|lzo|xz|zst)$')
_TABLE = '.metadata'
_SHARD_FILES = ('.distcp', '.metadata', '.metadata.tmp')


def counts(name: str) -> tuple[int, int] | None:
    """Batch and epoch in a checkpoint's name; ``None`` if it has neither.

    Example:
        >>> counts('ep2-ba8-rank0.pt'), counts('latest-rank0.pt')
        ((8, 2), None)
    """
    batch, epoch = re.search(r'ba(\d+)', name), re.search(r'ep(\d+)', name)
    if not batch and not epoch:
        return None
    return int(batch[1]) if batch else -1, int(epoch[1]) if epoch else -1


def is_checkpoint(path: Path) -> bool:
    """Whether there is something to load: a file, however short, or a folder of shards that was saved to its end."""
    return (path / _TABLE).is_file() if path.is_dir() else path.is_file()


def is_torn(path: Path) -> bool:
    """Whether a checkpoint was cut short, as by a kill or a full disk while it was written.

    A file that PyTorch wrote ends with a table of contents, and of a sharded save the table is written last. A packed
    file (``.tar``, ``.lz4``, ...) does not show it and counts as whole.
    """
    if path.is_dir():
        return not is_checkpoint(path)
    return path.is_file() and not is_packed(path) and not zipfile.is_zipfile(path)


def is_packed(path: Path) -> bool:
    """Whether it is an archive or compressed, going by its name."""
    return bool(_PACKED.search(path.name))


def saved(folder: Path) -> list[Path]:
    """What has a checkpoint's name in a folder of checkpoints, oldest first; other ranks' files are left out."""
    named = [(counts(path.name), path.name, path) for path in (folder.iterdir() if folder.is_dir() else ())]
    found = sorted((count, name, path) for count, name, path in named if count and not _OTHER_RANK.search(name))
    return [path for _, _, path in found]


def newest(folder: Path) -> Path | None:
    """The checkpoint with the highest batch in its name that was not cut short; ``None`` without one."""
    return next((path for path in reversed(saved(folder)) if is_checkpoint(path) and not is_torn(path)), None)


def target_of(link: Path) -> Path | None:
    """What the link to the latest checkpoint leads to, there or not; the link itself where a copy made it a file."""
    if link.is_symlink():
        # Not resolve(): it would spell out the parents of a folder that the caller named otherwise.
        return link.parent / os.readlink(link)
    return link if link.exists() else None


def remove_torn(folder: Path) -> list[str]:
    """Remove what was cut short: it is of no use, and takes room.

    Returns:
        The names of what was removed.
    """
    torn = [path for path in saved(folder) if not path.is_symlink() and is_torn(path) and _is_ours(path)]
    remove(torn)
    return [path.name for path in torn]


def remove(paths: list[Path]) -> None:
    """Remove checkpoints, each a file or a folder of shards."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def point_to(link: Path, checkpoint: Path) -> None:
    """Make the link to the latest checkpoint in one step, in place of what is there."""
    temporary = link.with_name(f'.{link.name}.{os.getpid()}.tmp')
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(os.path.relpath(checkpoint, link.parent))
    os.replace(temporary, link)


def _is_ours(path: Path) -> bool:
    return not path.is_dir() or all(item.name.endswith(_SHARD_FILES) for item in path.iterdir())
