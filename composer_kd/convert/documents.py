"""Documents from the Hugging Face hub or from local files, a file at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

KINDS = {'.txt': 'text', '.jsonl': 'json', '.json': 'json', '.parquet': 'parquet'}
_SAMPLED = {'line': 'line', 'paragraph': 'paragraph', 'file': 'document'}


def _kind(file: Path) -> str | None:
    plain = file.with_suffix('') if file.suffix == '.gz' else file
    return KINDS.get(plain.suffix)


def find_files(source: Path, split: str) -> list[Path]:
    """The file that ``source`` is, or the files of text below ``source/split``, or ``source``, in order of their names.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If they are of several kinds.
    """
    if not source.exists():
        raise FileNotFoundError(f"SOURCE: there is no file or folder '{source}'.")
    folder = source / split if (source / split).is_dir() else source
    files = [source] if source.is_file() else sorted(file for file in folder.rglob('*') if _kind(file))
    kinds = {_kind(file) for file in files}
    if not files or None in kinds:
        raise FileNotFoundError(
            f"SOURCE: expected files ending in {', '.join(KINDS)} (also with .gz) in '{folder}', and there are none.",
        )
    if len(kinds) > 1:
        raise ValueError(
            f"SOURCE: the files in '{folder}' are of several kinds ({', '.join(sorted(map(str, kinds)))}); convert one "
            'kind at a time, each into a folder of its own.',
        )
    return files


def _is_path(source: str) -> bool:
    # A data set on the hub is OWNER/NAME or NAME.
    return source.count('/') > 1 or source.startswith(('/', '.', '~')) or _kind(Path(source)) is not None


class Documents:
    """The documents of a data set of the Hugging Face hub, or of local files; empty ones are left out.

    They are read as a stream, so that nothing but the file that is read takes memory or disk.

    Args:
        source: A file, a folder of files, or the name of a data set on the hub.
        config: The data set's configuration, as ``en`` of ``allenai/c4``.
        split: The data set's split; a folder below a local folder, if there is one of that name.
        column: What holds the text in JSON lines, Parquet files and data sets.
        documents: What is a document of a ``.txt`` file: each ``'line'``, each ``'paragraph'``, or the whole
            ``'file'``.

    Raises:
        FileNotFoundError: If there are no such files, and no data set of that name.
        ValueError: For an unknown kind of documents, or a column that is not there.
    """

    def __init__(
        self, source: str | Path, config: str | None, split: str, column: str = 'text', documents: str = 'line',
    ) -> None:
        if documents not in _SAMPLED:
            raise ValueError(f"documents: expected {', '.join(map(repr, _SAMPLED))}, got {documents!r}.")
        self._column = column
        self.said: dict[str, Any] = {'source': str(source), 'config': config, 'split': split, 'column': column}
        if Path(source).exists() or _is_path(str(source)):
            files = find_files(Path(source), split)
            self.said = {'column': column, 'files': [[file.name, file.stat().st_size] for file in files]}
            kind = str(_kind(files[0]))
            how = {'sample_by': _SAMPLED[documents]} if kind == 'text' else {}
            self.said |= how
            self._data = _load(str(source), kind, data_files=[str(file) for file in files], split='train', **how)
        else:
            self._data = _load(str(source), str(source), name=config, split=split)
            self.said['files'] = self._data.num_shards
        self._check(str(source))

    def _check(self, source: str) -> None:
        first: dict[str, Any] = next(iter(self._data), {})
        if first and self._column not in first:
            raise ValueError(
                f"column: '{source}' has no '{self._column}'; its columns are {', '.join(map(repr, first))}.",
            )

    @property
    def files(self) -> int:
        """How many files there are."""
        return int(self._data.num_shards)

    def of_file(self, file: int) -> Iterator[str]:
        """The documents of one file, in its order.

        Raises:
            TypeError: If one of them is no text.
        """
        for row in self._data.shard(self.files, file):
            text = row[self._column]
            if text is None:
                continue
            if not isinstance(text, str):
                raise TypeError(f"column: expected text in '{self._column}', got {type(text).__name__}: {text!r}.")
            if text.strip():
                yield text


def _load(source: str, kind: str, **settings: Any) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    try:
        return load_dataset(kind, streaming=True, **settings)
    except (DatasetNotFoundError, ConnectionError, FileNotFoundError) as error:
        raise FileNotFoundError(
            f"SOURCE: there is no file or folder '{source}', and the Hugging Face hub gave no data set of that name: "
            f'{str(error).strip().splitlines()[0]}',
        ) from error
    except ValueError as error:
        raise ValueError(f"SOURCE: '{source}' cannot be read: {str(error).strip().splitlines()[0]}") from error
