"""Files from outside: asked for again, fetched once per node, read without running code, errors told to every rank."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import tarfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from composer.utils import dist, is_tar
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

T = TypeVar('T')

log = logging.getLogger(__name__)

PAUSES: tuple[float, ...] = (1.0, 4.0, 12.0, 30.0)
"""Seconds to wait before a store that failed is asked again; after the last the error stands."""

_SILENCE = 60.0
_BEAT = 1.0
_PART = 2**20
# Request timeout, too early, too many requests: the only answers 4xx that another try may change.
_MAY_PASS = frozenset({408, 425, 429})
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
_HOPELESS = (FileNotFoundError, PermissionError, NotImplementedError, ImportError, TypeError, ValueError)


class EndsEarly(OSError):
    """A download that is shorter than what was sent."""


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of urllib, requests, botocore, Google's, Oracle's or Apache's library."""
    response = getattr(error, 'response', None)
    if isinstance(response, Mapping):
        response = response.get('ResponseMetadata', {})
        found = [response.get('HTTPStatusCode')]
    else:
        found = [getattr(error, 'code', None), getattr(error, 'status', None), getattr(response, 'status_code', None)]
    return next((int(status) for status in found if isinstance(status, int)), None)


def _is_final(error: Exception) -> bool:
    """Whether asking again cannot help: what is not there, not allowed, not installed, or has no room here."""
    status = _status(error)
    if status is not None and 400 <= status < 500:
        return status not in _MAY_PASS
    no_room = isinstance(error, OSError) and error.errno in _DISK
    return no_room or isinstance(error, _HOPELESS) or 'Credential' in type(error).__name__


def told(error: BaseException) -> str:
    """Type and message of an error on one line."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())


def retried(fetch: Callable[[], T], source: str, done: str = 'fetched') -> T:
    """Call ``fetch`` again, after growing pauses, while it fails in a way that may pass; each failure is logged.

    Args:
        fetch: What is called; it begins from nothing each time.
        source: What is fetched, for the log.
        done: What is done with it, for the log.

    Returns:
        What it returns.

    Raises:
        Exception: Its last error, or the first that no other try can change: what is missing (404), refused (403),
            not installed, or finds the disk full.

    Example:
        >>> retried(lambda: 'here', 'https://example.org/model.pt')
        'here'
    """
    for number, pause in enumerate(PAUSES, 1):
        try:
            return fetch()
        except Exception as error:  # what stores raise is theirs to choose
            if _is_final(error):
                raise
            log.warning(
                '%s could not be %s (%s). Try %d of %d failed; the next follows in %g s.',
                source, done, told(error), number, len(PAUSES) + 1, pause,
            )
        time.sleep(pause)
    return fetch()


def download(url: str, target: Path) -> None:
    """Get one file over HTTP, whole.

    Args:
        url: Its address.
        target: Where it is written; a partial file may be there after an error.

    Raises:
        FileNotFoundError: If the server says that there is no such file.
        EndsEarly: If it is shorter than announced or, where nothing was announced, than its own contents say.
        OSError: For any other answer, or none.
    """
    request = urllib.request.Request(url, headers={'User-Agent': 'composer_kd', 'Accept-Encoding': 'identity'})
    try:
        with urllib.request.urlopen(request, timeout=_SILENCE) as answer, target.open('wb') as file:
            announced = answer.headers.get('Content-Length')
            size = None if announced is None else int(announced)
            with tqdm(desc=f'Fetching {target.name}', total=size, unit='iB', unit_scale=True) as bar:
                while part := answer.read(_PART):
                    file.write(part)
                    bar.update(len(part))
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise FileNotFoundError(f'HTTP status {error.code} from {url}') from error
        raise
    if size is None:
        _check_end(target)
    else:
        check_size(target, size)


def check_size(file: Path, size: int) -> None:
    """Refuse a file that has not the size it should have.

    Raises:
        EndsEarly: If it has another.
    """
    if file.stat().st_size != size:
        raise EndsEarly(f'{file.stat().st_size:,} of {size:,} bytes came')


def _check_end(file: Path) -> None:
    """Refuse an archive or a safetensors file that says itself that there should be more of it."""
    try:
        with file.open('rb') as opened:
            start = opened.read(4)
        if start == b'PK\x03\x04':
            zipfile.ZipFile(file).close()
        elif file.suffix == '.safetensors':
            with safe_open(file, framework='pt'):
                pass
        elif is_tar(file.name):
            with tarfile.open(file) as archive:
                archive.getmembers()
    except (zipfile.BadZipFile, SafetensorError, tarfile.TarError, EOFError) as error:
        raise EndsEarly(f'{file.stat().st_size:,} bytes came, and they are not all ({told(error)})') from error


def sha256(files: Iterable[Path]) -> str:
    """SHA-256 (hexadecimal) of one file, or of several with their names and sizes.

    Example:
        >>> sha256([Path(os.devnull)])[:8]
        'e3b0c442'
    """
    digest, files = hashlib.sha256(), list(files)
    for file in files:
        if len(files) > 1:
            digest.update(f'{file.name}:{file.stat().st_size};'.encode())
        with file.open('rb') as opened:
            while part := opened.read(_PART):
                digest.update(part)
    return digest.hexdigest()


def gathered(value: T) -> list[T]:
    """Every rank's value; before the ranks know each other, this one's alone."""
    return dist.all_gather_object(value) if dist.is_initialized() else [value]


def raise_everywhere(error: Exception | None) -> None:
    """Raise on every rank what happened to one, so that none waits for it; every rank calls this.

    Args:
        error: What happened on this rank; ``None`` for nothing.

    Raises:
        FileNotFoundError: If the first error among the ranks is one, with its message.
        ValueError: Likewise.
        RuntimeError: For the message of any other.
    """
    said = None
    if error is not None:
        kind = next((kind for kind in (FileNotFoundError, ValueError) if isinstance(error, kind)), RuntimeError)
        said = kind, told(error) if kind is RuntimeError else str(error)
    first = next((one for one in gathered(said) if one is not None), None)
    if first is not None:
        raise first[0](first[1]) from error


def on_first_ranks(work: Callable[[], T]) -> list[T | None]:
    """Let the first rank of every node do something that may take long; every rank calls this.

    The others do not wait in one collective operation, which would run out of time, but in many short ones.

    Args:
        work: What is done.

    Returns:
        What it returned, by rank; ``None`` for the ranks that did nothing.

    Raises:
        FileNotFoundError: As :func:`raise_everywhere`, and so are the others.
        ValueError: Likewise.
        RuntimeError: Likewise; or if there are several ranks, and they do not know each other yet.
    """
    if dist.get_world_size() == 1:
        return [work()]
    result: list[T] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            result.append(work())
        except Exception as error:  # all ranks hear of it below
            errors.append(error)

    worker = threading.Thread(target=run, daemon=True) if dist.get_local_rank() == 0 else None
    if worker is not None:
        worker.start()
    ready = False
    while not ready:
        if worker is not None:
            worker.join(_BEAT)
        ready = all(dist.all_gather_object(worker is None or not worker.is_alive()))
    raise_everywhere(errors[0] if errors else None)
    return dist.all_gather_object(result[0] if result else None)


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Another value for an attribute of a module or class, as long as the context lasts."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def only_weights() -> Iterator[None]:
    """Let ``torch.load`` read tensors and plain values alone, even where its caller asks for any object.

    Example:
        >>> with only_weights():
        ...     os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD']
        '1'
    """
    force, relax = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD', 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'
    before = {name: os.environ.pop(name, None) for name in (force, relax)}  # torch refuses to have both
    os.environ[force] = '1'
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
