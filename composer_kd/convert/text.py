"""From documents to MDS shards: the text as it is, or its tokens.

The documents of each file are converted some thousands at a time, each lot into a folder of shards of its own. So a
conversion that was stopped goes on with the lot it was at, even of a stream that cannot be asked for its n-th sample;
``index.json`` beside these folders names the shards of all of them, and comes last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from composer_kd.convert.documents import Documents
from composer_kd.convert.packing import Packer
from composer_kd.convert.writer import write_mds
from composer_kd.models.tokenizers import load_tokenizer, vocabulary_digest
from composer_kd.recipes.tasks.mds import MdsIndex, is_mds, read_index
from composer_kd.runs.files import write_atomically

LOT = 100_000
"""Documents in memory at a time."""

_PLAN = 'conversion.json'


class _Samples:
    def __init__(self, column: str, values: Sequence[Any]) -> None:
        self._column, self._values = column, values

    def __len__(self) -> int:
        return len(self._values)

    def sample(self, index: int) -> dict[str, Any]:
        return {self._column: self._values[index]}


def _lots(documents: Iterator[str]) -> Iterator[list[str]]:
    while lot := list(islice(documents, LOT)):
        yield lot


def _put(path: Path, content: Any) -> None:
    write_atomically(path, json.dumps(content, indent=1, sort_keys=True))


class _Conversion:
    def __init__(self, documents: Documents, packer: Packer | None, out: Path, said: dict[str, Any]) -> None:
        self._documents, self._packer, self._out = documents, packer, out
        self._said = {**said, 'lot': LOT}
        self._lots_of: dict[str, list[str]] = {}

    def claim(self) -> None:
        """Make the folder this conversion's own, or take up where it was left."""
        state = self._out / _PLAN
        if state.is_file():
            found = json.loads(state.read_text())
            begun = found.get('what', {})
            other = [name for name in {**begun, **self._said} if begun.get(name) != self._said.get(name)]
            if other:
                told = ', '.join(f'{name} {begun.get(name)!r} instead of {self._said.get(name)!r}' for name in other)
                raise ValueError(
                    f"'{self._out}' holds another conversion, with {told}. Give the arguments and the source it was "
                    'begun with, or another folder.',
                )
            self._lots_of = found['lots']
            return
        self._out.mkdir(parents=True, exist_ok=True)
        if any(self._out.iterdir()):
            raise ValueError(f"'{self._out}' is not empty and holds no conversion of text; give a new folder.")
        _put(state, {'what': self._said, 'lots': {}})

    def write(self, compression: str | None, size_limit: int | str, workers: int, bar: Progress) -> None:
        """Write all lots that are not there."""
        task = bar.add_task('files', total=self._documents.files, documents=0)
        seen = 0
        for file in range(self._documents.files):
            if str(file) not in self._lots_of:
                folders = []
                for number, lot in enumerate(_lots(self._documents.of_file(file))):
                    folder = f'{file:05}-{number:05}'
                    if self._write_lot(lot, self._out / folder, compression, size_limit, workers):
                        folders.append(folder)
                    seen += len(lot)
                    bar.update(task, documents=seen)
                self._lots_of[str(file)] = folders
                _put(self._out / _PLAN, {'what': self._said, 'lots': self._lots_of})
            bar.advance(task)

    def _write_lot(
        self, lot: list[str], folder: Path, compression: str | None, size_limit: int | str, workers: int,
    ) -> bool:
        if is_mds(folder):
            return True
        samples = _Samples('text', lot) if self._packer is None else _Samples('tokens', self._packer(lot))
        if not len(samples):
            return False
        columns = {'text': 'str'} if self._packer is None else self._packer.columns
        write_mds(
            samples, columns, folder, compression=compression, size_limit=size_limit, workers=workers, progress=False,
        )
        return True

    def finish(self, tokens: dict[str, Any] | None) -> None:
        """Put ``index.json`` over the folders of all lots."""
        shards = []
        for folder in (folder for file in sorted(self._lots_of, key=int) for folder in self._lots_of[file]):
            for shard in json.loads((self._out / folder / 'index.json').read_text())['shards']:
                for kind in ('raw_data', 'zip_data'):
                    if shard[kind]:
                        shard[kind]['basename'] = f"{folder}/{shard[kind]['basename']}"
                shards.append(shard)
        if not shards:
            raise ValueError('SOURCE: there is nothing to convert: no document with text, or too little for a sample.')
        _put(self._out / 'index.json', {'version': 2, 'shards': shards, **({'tokens': tokens} if tokens else {})})


def convert_text(
    source: str | Path,
    out: Path,
    split: str = 'train',
    *,
    name: str | None = None,
    config: str | None = None,
    column: str = 'text',
    documents: str = 'line',
    tokenizer: str | None = None,
    seq_len: int = 128,
    concat: bool = False,
    compression: str | None = None,
    size_limit: int | str = 1 << 26,
    workers: int = 4,
    progress: bool = True,
) -> MdsIndex:
    """Convert documents to MDS shards in ``out/split`` (or ``out/name``), for the data ``masked_text``.

    It may be stopped at any time: the same call goes on where it was. A folder that is finished is recognised and left
    as it is.

    Args:
        source: A data set on the Hugging Face hub (``'allenai/c4'``), a file (``.txt``, ``.jsonl``, ``.parquet``, also
            with ``.gz``), or a folder of files, in a folder ``split`` below it or in itself.
        out: Where the folder ``split`` is written.
        split: Which split.
        name: Of the folder below ``out``, where it is not the split's: the hub's ``validation`` is our ``val``.
        config: The data set's configuration (``'en'``).
        column: What holds the text; not used for ``.txt``.
        documents: What is a document in a ``.txt`` file: each ``'line'``, each ``'paragraph'`` or the whole ``'file'``.
        tokenizer: Write tokens of this tokenizer, by its folder or name on the hub, instead of text: column ``tokens``,
            16 bits each where the vocabulary allows. What reads them must have the same one.
        seq_len: Tokens of a sample, special ones included; only with ``tokenizer``.
        concat: Join documents to samples of exactly ``seq_len`` tokens, so that none is padding; if not, each document
            is a sample, cut off after ``seq_len`` tokens. Only with ``tokenizer``.
        compression: As ``'zstd'``; ``None`` for none.
        size_limit: About the bytes of a shard before compression.
        workers: Threads that write shards.
        progress: Whether to show how far it is.

    Returns:
        What was written.

    Raises:
        FileNotFoundError: If there is no such source.
        ValueError: If it holds no text, ``out/split`` holds something else, or an argument is out of range.
        TypeError: If ``column`` holds something else than text.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / 'a.txt').write_text('One document.')
        ...     convert_text(Path(folder) / 'a.txt', Path(folder) / 'out', progress=False).columns
        {'text': 'str'}
    """
    if concat and tokenizer is None:
        raise ValueError('concat: documents are joined as tokens; name a tokenizer as well.')
    found = Documents(source, config, split, column, documents)
    packer, tokens = None, {}
    if tokenizer is not None:
        words = load_tokenizer(tokenizer)
        packer = Packer(words, seq_len, concat)
        tokens = {'vocabulary': vocabulary_digest(words), 'seq_len': seq_len, 'concat': concat}
    to = Path(out) / (split if name is None else name)
    said = {**found.said, **tokens, 'compression': compression, 'size_limit': size_limit}
    conversion = _Conversion(found, packer, to, said)
    conversion.claim()
    if not is_mds(to):
        shown = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(),
                 TextColumn('{task.fields[documents]:,} documents written'), TimeElapsedColumn())
        with Progress(*shown, console=Console(stderr=True, quiet=not progress), disable=not progress) as bar:
            conversion.write(compression, size_limit, workers, bar)
        conversion.finish({**tokens, 'tokenizer': tokenizer} if tokens else None)
    return read_index(to)
