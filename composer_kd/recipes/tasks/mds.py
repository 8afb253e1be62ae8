"""MDS, the shards of mosaicml-streaming: what is in a folder of them, checked before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_kd.answers import SampleLoader
from composer_kd.recipes.tasks.part import Part

Sample = Callable[[Mapping[str, Any], int, int], Any]
"""What is made of a sample: a function of its columns, the view and its index."""

GIVEN = frozenset({'local', 'remote', 'split', 'streams', 'batch_size', 'shuffle', 'shuffle_seed'})
"""The arguments of a StreamingDataset that follow from other settings."""


@dataclass(frozen=True)
class MdsIndex:
    """What a folder's ``index.json`` says.

    Attributes:
        samples: How many, in all shards.
        bytes: Of all shards as they lie on disk.
        columns: Each column's encoding.
        shards: How many.
    """

    samples: int
    bytes: int
    columns: dict[str, str]
    shards: int


def is_mds(path: str | Path) -> bool:
    """Whether a folder holds MDS shards."""
    return (Path(path) / 'index.json').is_file()


def read_index(folder: str | Path, where: str = 'path') -> MdsIndex:
    """What is in a folder of shards, each of them looked at from outside: it is there, and as long as it should be.

    Args:
        folder: The folder that holds ``index.json``.
        where: The setting that named it, for messages.

    Raises:
        FileNotFoundError: If there is no ``index.json``, or a shard is missing.
        ValueError: If the index is no MDS index, holds no samples, or a shard is shorter or longer than it says.
    """
    folder = Path(folder)
    file = folder / 'index.json'
    if not file.is_file():
        raise FileNotFoundError(
            f"{where}: expected MDS shards with an index.json in '{folder}', and there is none. Give the folder that "
            'scripts/convert.py wrote.',
        )
    try:
        shards = json.loads(file.read_text())['shards']
        samples = sum(int(shard['samples']) for shard in shards)
        columns = dict(zip(shards[0]['column_names'], shards[0]['column_encodings'], strict=True)) if shards else {}
        size = sum(_looked_at(folder, shard, where) for shard in shards)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{where}: '{file}' is not the index of MDS shards ({type(error).__name__}: {error}). Convert the data "
            'again or copy it anew.',
        ) from error
    if 'pkl' in columns.values():
        raise ValueError(
            f"{where}: the MDS shards in '{folder}' hold pickled columns, which run code of whoever made them when "
            'they are read. Convert the data anew, with columns of plain types.',
        )
    if not samples:
        raise ValueError(f"{where}: the MDS shards in '{folder}' hold no samples.")
    return MdsIndex(samples, size, columns, len(shards))


def all_here(folder: Path) -> bool:
    """Whether all shards lie in the folder uncompressed, so that any sample can be read at once."""
    shards = json.loads((folder / 'index.json').read_text())['shards']
    return all((folder / shard['raw_data']['basename']).is_file() for shard in shards)


def check_part(
    part: Part | None, train: bool, folder: Path | None, remote: str | None, streaming: Mapping[str, Any] | None,
) -> None:
    """Refuse a part of training data that is read in mosaicml-streaming's order, shard after shard.

    Args:
        part: What is asked for.
        train: Whether to train on it; an evaluator reads any sample it asks for.
        folder: Where the shards lie; ``None`` if they are fetched.
        remote: Where they are fetched from.
        streaming: Arguments of the StreamingDataset.

    Raises:
        ValueError: If it cannot be had.
    """
    if part is None or not train:
        return
    if remote is not None:
        why = 'remote is given'
    elif streaming:
        why = 'streaming is given'
    elif folder is not None and not all_here(folder):
        why = f"those in '{folder}' are compressed"
    else:
        return
    raise ValueError(
        f"part: needs shards that can be read at random, and {why}: they are read in mosaicml-streaming's order, one "
        'after another. Put them on this machine uncompressed, without remote and streaming, or leave part out.',
    )


def _looked_at(folder: Path, shard: Mapping[str, Any], where: str) -> int:
    """The bytes of a shard on disk, raw or compressed."""
    wrong = []
    for kind in ('raw_data', 'zip_data'):
        said = shard.get(kind)
        if said is None:
            continue
        path = folder / said['basename']
        if not path.is_file():
            continue
        if path.stat().st_size == said['bytes']:
            return int(said['bytes'])
        wrong.append(f"'{path}' has {path.stat().st_size:,} of {said['bytes']:,} bytes")
    if wrong:
        raise ValueError(
            f"{where}: a shard is truncated or another's: {'; '.join(wrong)}. Convert the data again or copy it anew.",
        )
    raise FileNotFoundError(
        f"{where}: the shard '{folder / shard['raw_data']['basename']}' that index.json names is missing. Copy it "
        'there, or convert the data again.',
    )


def mds_loader(
    path: str,
    remote: str | None,
    split: str,
    columns: Sequence[str],
    sample: Sample,
    collate_fn: Callable[[Any], Any],
    batch_size: int,
    seed: int,
    train: bool,
    num_workers: int = 0,
    streaming: Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    part: Part | None = None,
    views: int | None = None,
    looks: Mapping[str, Any] | None = None,
) -> SampleLoader:
    """A DataLoader over MDS shards.

    Shards that are all on this machine are read at random, in an order that seed and epoch alone decide. With a
    ``remote``, with arguments in ``streaming``, or where shards are compressed, the order of training is that of
    mosaicml-streaming, which fetches and reads shards one after another, shuffled within blocks: also the better one on
    a disk that seeks slowly (``streaming: {shuffle_algo: py1e}``). Either resumes without reading what was seen. An
    evaluator's samples come in order, each once, whatever the ranks.

    Args:
        path: The folder on this machine; the cache, where there is a ``remote``. The shards lie in ``path/split``, or
            in ``path`` itself.
        remote: Where they are fetched from, a folder or a URI such as ``s3://...``; ``None`` if they are all here.
        split: The folder below ``path`` and ``remote``.
        columns: The columns that are needed.
        sample: Makes a sample of its columns.
        collate_fn: Samples to a batch.
        batch_size: Samples of one rank's batch.
        seed: The run's seed.
        train: Whether to shuffle and to leave out an epoch's last, smaller batch.
        num_workers: Worker processes of this rank.
        streaming: Further arguments of ``streaming.StreamingDataset``, as ``cache_limit`` or ``shuffle_block_size``.
        attributes: What else is set on the loader's dataset.
        part: ``[start, end]``, the shares of the samples between which they are taken; ``None`` for all. Of training
            data in mosaicml-streaming's order there is none.
        views: How many views epochs take in turn; ``None`` for a new one each.
        looks: What decides how a sample looks in a view, for stored answers to be held against.

    Raises:
        FileNotFoundError: If there are no shards.
        ValueError: If a shard is damaged, a column is missing, an argument in ``streaming`` is unknown, or a part is
            asked for of shards that cannot be read at random.
    """
    at, below = (path, split) if remote is not None or is_mds(Path(path) / split) else (path, None)
    if remote is None:
        folder = Path(at) / (below or '')
        index = read_index(folder)
        missing = [column for column in columns if column not in index.columns]
        if missing:
            raise ValueError(
                f"path: the MDS shards in '{folder}' have the columns {', '.join(sorted(index.columns))}; expected "
                f"{' and '.join(columns)} ({', '.join(missing)} is missing). Convert the data with scripts/convert.py.",
            )
    check_part(part, train, Path(at) / (below or ''), remote, streaming)
    from composer_kd.recipes.tasks.mds_stream import stream_loader

    return stream_loader(
        at, remote, below, sample, collate_fn, batch_size, seed, train, num_workers, dict(streaming or {}),
        dict(attributes or {}), part, views, looks,
    )
