"""Copying a finished store to an object store, what says that it is complete last."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from composer.utils import maybe_create_object_store_from_uri, parse_uri
from tqdm import tqdm

from composer_kd.answers.manifest import NAME
from composer_kd.models.outside import retried, told


def upload(folder: Path, uri: str) -> None:
    """Copy a store from a folder to a URI; what is there already is written over.

    Args:
        folder: The store.
        uri: Such as ``s3://bucket/answers``.

    Raises:
        ValueError: If it cannot be copied; the same call can be made again.
    """
    store = maybe_create_object_store_from_uri(uri)
    prefix = parse_uri(uri)[2].rstrip('/')
    if store is None:
        raise ValueError(f"--out: '{uri}' is no URI of an object store that can be written to.")
    files = [path for path in sorted(folder.rglob('*')) if path.is_file() and not path.name.startswith('.')]
    files.sort(key=lambda path: path.name == NAME)  # without a manifest it is no store
    for path in tqdm(files, desc='upload', unit=' files'):
        name = f'{prefix}/{path.relative_to(folder).as_posix()}'
        try:
            retried(partial(store.upload_object, name, str(path)), uri)
        except Exception as error:  # what stores raise is theirs to choose
            raise ValueError(
                f"--out: '{path}' could not be copied to '{uri}': {told(error)}. It lies in '{folder}'; the same "
                'command goes on from there.',
            ) from error
