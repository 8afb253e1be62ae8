"""Copying a finished store to an object store, what says that it is complete last."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

from composer.utils import maybe_create_object_store_from_uri, parse_uri
from tqdm import tqdm

from composer_kd.answers import Manifest
from composer_kd.answers.manifest import NAME
from composer_kd.models.outside import retried, told
from composer_kd.teachers.fetch import fetched

_READ_ONLY = ('http', 'https')


def check_uri(uri: str) -> None:
    """Refuse what cannot be written to, before anything is asked.

    Raises:
        ValueError: Saying why.
    """
    backend, bucket, _ = parse_uri(uri)
    if backend in _READ_ONLY or not backend:
        raise ValueError(f"--out: nothing can be written to '{uri}'. Give a folder or a URI such as s3://bucket/path.")
    if not bucket and backend not in ('dbfs', 'file'):
        raise ValueError(f"--out: '{uri}' names no bucket. Write it as {backend}://BUCKET/PATH.")


def refuse_others(uri: str, manifest: Manifest) -> None:
    """Refuse to write over another store; every rank calls this.

    Raises:
        ValueError: If other answers are there, or it cannot be told.
    """
    try:
        with fetched(f"{uri.rstrip('/')}/{NAME}") as file:
            there = Manifest.read(file, '--out')
    except FileNotFoundError:
        return
    found = there.differences(manifest.bound, 'this recipe')
    if found:
        raise ValueError(
            f"--out: '{uri}' holds other answers: {'; '.join(found)}. Give another URI; nothing was touched.",
        )


def upload(folder: Path, uri: str) -> None:
    """Copy a store from a folder to a URI; what is there already is written over.

    Args:
        folder: The store.
        uri: Such as ``s3://bucket/answers``.

    Raises:
        ValueError: If it cannot be copied; the same call can be made again.
    """
    path = folder
    prefix = parse_uri(uri)[2].rstrip('/')
    files = [path for path in sorted(folder.rglob('[!.]*')) if path.is_file() and not path.parent.name.startswith('.')]
    files.sort(key=lambda path: path.name == NAME)  # without a manifest it is no store
    try:
        store: Any = retried(lambda: maybe_create_object_store_from_uri(uri), uri, 'opened')
        for path in tqdm(files, desc='upload', unit=' files', mininterval=1.0 if sys.stderr.isatty() else 30.0):
            name = f'{prefix}/{path.relative_to(folder).as_posix()}'.lstrip('/')
            retried(partial(store.upload_object, name, str(path)), uri, 'written')
    except Exception as error:  # what stores raise is theirs to choose
        raise ValueError(
            f"--out: '{path}' could not be copied to '{uri}': {told(error)}. The store lies whole in '{folder}'; the "
            'same command copies it again, and asks no teacher for what is there.',
        ) from error
