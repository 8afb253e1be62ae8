"""What a store's answers belong to, and what of that differs from what is trained."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from composer_kd.answers.formats import Format
from composer_kd.names import described
from composer_kd.runs.files import digest, write_atomically

NAME = 'manifest.json'
VERSION = 1


@dataclass(frozen=True)
class Identity:
    """What samples a loader gives: the same identity, sample and view mean the same input to the last bit.

    Attributes:
        data: ``name``, ``samples`` (of the whole, whatever part is used) and ``content``, a digest of what it is made
            of: files, their order and sizes.
        view: Everything that decides how a sample looks: sizes, augmentation, masking, and the seed it is drawn from.
    """

    data: Mapping[str, Any]
    view: Mapping[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What stands in ``manifest.json``.

    Attributes:
        teacher: ``name``, ``origin`` and ``digest``.
        data: Of the :class:`Identity`.
        view: Of the :class:`Identity`.
        rows: Which rows a sample has: ``each`` (``'sample'`` or ``'label'``), and with labels ``ignore_index`` and
            ``shift``.
        format: How they are written.
        precision: That the teacher ran in.
        versions: Of the libraries it ran with; told, not compared: samples are compared one by one.
        complete: Whether all that was to be written is there; a store that runs fill never is.
        cost: Of a complete store, what writing it took: ``seconds`` (of all ranks together), ``samples``, ``bytes``.
        version: Of this file's form.
    """

    teacher: Mapping[str, str]
    data: Mapping[str, Any]
    view: Mapping[str, Any]
    rows: Mapping[str, Any]
    format: Format
    precision: str
    versions: Mapping[str, str] = field(default_factory=dict)
    complete: bool = False
    cost: Mapping[str, float] = field(default_factory=dict)
    version: int = VERSION

    def differences(self, other: Mapping[str, Mapping[str, Any]], ours: str = 'this training') -> list[str]:
        """What is other there, one phrase each.

        Args:
            other: By ``'teacher'``, ``'data'``, ``'view'``, ``'rows'`` or ``'format'``, what ought to stand here; what
                is not said is not compared.
            ours: What the other is called.

        Example:
            >>> kept = Manifest({'digest': 'a'}, {}, {'seed': 17}, {}, Format('dense', 10), 'fp32')
            >>> kept.differences({'view': {'seed': 18}})
            ['view.seed is 17 in the store and 18 in this training']
        """
        mine: dict[str, Mapping[str, Any]] = {
            'teacher': self.teacher, 'data': self.data, 'view': self.view, 'rows': self.rows,
            'format': self.format.plain(),
        }
        found = []
        for part, theirs in other.items():
            for key in dict.fromkeys([*mine[part], *theirs] if part in ('data', 'view') else theirs):
                there, here = mine[part].get(key), theirs.get(key)
                if _plain(there) != _plain(here):
                    found.append(f'{part}.{key} is {_shown(there)} in the store and {_shown(here)} in {ours}')
        return found

    @property
    def bound(self) -> dict[str, Mapping[str, Any]]:
        """What must be the same of answers that lie in one store, as :meth:`differences` takes it."""
        return {
            'teacher': {'digest': self.teacher.get('digest')}, 'data': self.data, 'view': self.view, 'rows': self.rows,
            'format': self.format.plain(),
        }

    @property
    def identity(self) -> str:
        """Sixteen digits that follow from what is :attr:`bound`."""
        return digest(_plain([
            self.teacher.get('digest'), dict(self.data), dict(self.view), dict(self.rows), self.format.plain(),
        ]))[:16]

    def write(self, folder: Path, begin: bool = False) -> None:
        """Write it, in one piece; to ``begin`` a store, unless one was begun there meanwhile."""
        plain = json.loads(json.dumps({**self.__dict__, 'format': self.format.plain()}, default=dict))
        text = json.dumps({**plain, 'check': digest(plain)}, indent=2) + '\n'
        if not begin:
            write_atomically(folder / NAME, text)
            return
        own = folder / f'.{NAME}.{uuid.uuid4().hex[:8]}'
        write_atomically(own, text)
        with contextlib.suppress(FileExistsError):
            try:
                os.link(own, folder / NAME)  # unlike a rename, it replaces nothing
            except FileExistsError:
                raise
            except OSError:  # there are file systems without links
                with open(folder / NAME, 'x', encoding='utf-8') as file:
                    file.write(text)
            finally:
                own.unlink()

    @classmethod
    def read(cls, path: Path, where: str) -> Manifest:
        """Read it.

        Args:
            path: The file.
            where: What named the store, for messages.

        Raises:
            ValueError: If it is none, or of a version that this one does not know.
        """
        try:
            found = json.loads(path.read_text(encoding='utf-8'))
            version = found['version']
            if version == VERSION:
                if found.pop('check', None) != digest(found):
                    raise ValueError('it is not as it was written')
                found['format'] = Format.restore(found['format'])
                return cls(**found)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{where}: '{path}' is not the manifest of stored answers ({type(error).__name__}: {error}). Copy it "
                'anew, or write the store again.',
            ) from error
        raise ValueError(
            f"{where}: '{path}' is of version {version!r}, and this composer_kd knows {VERSION}. Write the store again "
            'with this one, or use the one that wrote it.',
        )


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    return json.loads(json.dumps(value, default=str))


def _shown(value: Any) -> str:
    text = described(value)
    return text if len(text) <= 60 else f'{text[:57]}...'
