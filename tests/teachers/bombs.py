"""Files that run code when they are read without care: each leaves a mark."""

import io
import os
import pickle
from pathlib import Path

import torch


class Bomb:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def poison_bytes(folder: Path, key: str, bomb: Bomb) -> None:
    """Put a bomb in the place of a pickled value of a sharded checkpoint."""
    path = folder / '.metadata'
    metadata = pickle.loads(path.read_bytes())
    info = next(info for index, info in metadata.storage_data.items() if index.fqn == key)
    packed = io.BytesIO()
    torch.save(bomb, packed)
    data = folder / info.relative_path
    info.offset, info.length = data.stat().st_size, len(packed.getvalue())
    with data.open('ab') as file:
        file.write(packed.getvalue())
    path.write_bytes(pickle.dumps(metadata))
