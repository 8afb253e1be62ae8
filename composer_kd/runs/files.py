"""Files replaced in one piece, and digests of plain data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any


def write_atomically(path: str | os.PathLike[str], text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new, never a part, whenever the writer is killed.

    The text goes to a temporary file in the same folder (a rename is atomic within one file system only), is forced
    to disk and renamed. On failure the old file stands and the temporary file is removed.

    Args:
        path: The file; its folder must exist.
        text: The new content, written as UTF-8.

    Raises:
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / 'a.txt', 'hello')
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('a.txt', 'hello')]
    """
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        # open(), not tempfile: mkstemp's files are readable by their owner alone, and a rename would keep that.
        with open(temporary, 'w', encoding='utf-8') as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def is_leftover(path: Path) -> bool:
    """Whether a file is what :func:`write_atomically` leaves behind when it is killed.

    Example:
        >>> is_leftover(Path('.recipe.yaml.123.tmp')), is_leftover(Path('recipe.yaml'))
        (True, False)
    """
    return path.name.startswith('.') and path.name.endswith('.tmp')


def digest(obj: Any) -> str:
    """SHA-256 of plain data, the same for the same content whatever the order of its keys.

    Args:
        obj: Mappings with string keys, sequences, strings, numbers, booleans and ``None``, nested.

    Returns:
        64 hexadecimal digits of the hash of the canonical JSON (sorted keys, no spaces).

    Raises:
        TypeError: If ``obj`` holds anything else.

    Example:
        >>> digest({'a': 1, 'b': [2, 3]}) == digest({'b': (2, 3), 'a': 1})
        True
    """
    text = json.dumps(obj, sort_keys=True, separators=(',', ':'), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
