"""From one folder of pictures a class to MDS shards."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from composer_kd.convert.writer import write_mds
from composer_kd.recipes.tasks.images.folder import scan_folder
from composer_kd.recipes.tasks.mds import MdsIndex

COLUMNS = {'x': 'bytes', 'y': 'int'}
QUALITY = 90


class ImageSource:
    """The pictures of a folder, shuffled once, the same every time: the bytes of the file, and the label.

    Args:
        folder: It holds one folder of pictures for each class.
        resize: Make the shorter side so many pixels where it is longer, and write the picture as JPEG of quality 90.
    """

    def __init__(self, folder: Path, resize: int | None = None) -> None:
        if resize is not None and resize < 1:
            raise ValueError(f'resize: expected 1 or more pixels, got {resize}.')
        self.pictures, self._resize = scan_folder(folder, 'FOLDER'), resize
        # RandomState, not default_rng: NumPy promises never to change its stream.
        self._order = np.random.RandomState(0).permutation(len(self.pictures))

    def __len__(self) -> int:
        return len(self.pictures)

    def sample(self, index: int) -> dict[str, Any]:
        """``{'x': bytes, 'y': int}``.

        Raises:
            ValueError: If the file is no picture.
        """
        at = int(self._order[index])
        path = Path(self.pictures.path(at))
        data = path.read_bytes()
        try:
            with Image.open(BytesIO(data)) as picture:
                picture.load()  # a picture that was cut off shows only when it is decoded
                if self._resize is not None and min(picture.size) > self._resize:
                    data = _smaller(picture, self._resize)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            told = 'PIL finds no picture in it' if 'cannot identify' in str(error) else str(error)
            raise ValueError(
                f"'{path}' ({len(data):,} bytes) is no picture, or a damaged one: {told}. Copy it anew, or remove it.",
            ) from error
        return {'x': data, 'y': int(self.pictures.labels[at])}


def _smaller(picture: Image.Image, shorter: int) -> bytes:
    share = shorter / min(picture.size)
    size = (max(shorter, round(picture.width * share)), max(shorter, round(picture.height * share)))
    file = BytesIO()
    picture.convert('RGB').resize(size, Image.Resampling.BICUBIC).save(file, 'JPEG', quality=QUALITY)
    return file.getvalue()


def convert_images(
    folder: Path,
    out: Path,
    split: str = 'train',
    *,
    resize: int | None = None,
    size_limit: int | str = 1 << 26,
    workers: int = 4,
    progress: bool = True,
) -> MdsIndex:
    """Convert ``folder/split``, with one folder of pictures a class, to MDS shards in ``out/split``.

    Args:
        folder: As ImageNet's, with ``train`` and ``val``.
        out: Where ``split`` is written.
        split: Which of the folders.
        resize: See :class:`ImageSource`; ``None`` keeps every file's bytes as they are.
        size_limit: About the bytes of a shard.
        workers: Threads.
        progress: Whether to show how far it is.

    Returns:
        What was written: the columns ``x`` (the bytes of a picture's file) and ``y`` (the label).

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no pictures, a file is none, or ``out/split`` holds something else.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / 'train' / 'cat').mkdir(parents=True)
        ...     Image.new('RGB', (8, 8)).save(Path(folder) / 'train' / 'cat' / '1.png')
        ...     convert_images(Path(folder), Path(folder) / 'out', progress=False).samples
        1
    """
    source = ImageSource(Path(folder) / split, resize)
    return write_mds(
        source, COLUMNS, Path(out) / split, size_limit=size_limit, workers=workers, progress=progress,
    )
