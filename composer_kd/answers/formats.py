"""How an answer is written down: every logit, the likeliest classes, or classes drawn by their probability."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from composer_kd.answers.sparse import Answer, Sparse
from composer_kd.functional import draw, top_k
from composer_kd.names import check_keys, nearest, split_named

KINDS = ('dense', 'top_k', 'sampled')
_DTYPES = {'float32': torch.float32, 'float16': torch.float16, 'bfloat16': torch.bfloat16}
_SETTINGS = {'dense': {'dtype'}, 'top_k': {'k', 'dtype', 'temperature'}, 'sampled': {'k', 'temperature'}}
_DEFAULT_K = 8
_HEADER = 4
_PLACES = 8


@dataclass(frozen=True)
class Format:
    """The form of the rows of a store: one for a sample, or for each of its tokens that count.

    A row takes ``row_bytes``, and a sample ``4`` for its check beside its rows, and ``8`` in the shards' tables.

    Attributes:
        name: ``'dense'`` (all logits), ``'top_k'`` (the ``k`` likeliest classes with their log-probabilities, and the
            log of the mass of the rest), or ``'sampled'`` (``k`` draws by the teacher's own probabilities, unbiased).
        classes: Of the teacher.
        dtype: Of the values: ``'float32'`` (exact), ``'float16'`` or ``'bfloat16'``; counts of draws have their own.
        k: Classes kept, or draws made, of a row.
        temperature: At which probabilities are kept; logits are kept as they are.

    Example:
        >>> form = Format('top_k', 1000, k=10, temperature=1.0)
        >>> form.row_bytes, form.bound
        (42, 80)
        >>> form.unpack(form.pack(torch.eye(3, 1000) * 9)).likeliest()
        tensor([0, 1, 2])
    """

    name: str
    classes: int
    dtype: str = 'float16'
    k: int = _DEFAULT_K
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            raise ValueError(f"format: expected {', '.join(KINDS)}, got {self.name!r}.{nearest(self.name, KINDS)}")
        if not isinstance(self.dtype, str) or self.dtype not in _DTYPES:
            raise ValueError(
                f"dtype: expected {', '.join(_DTYPES)}, got {self.dtype!r}.{nearest(str(self.dtype), _DTYPES)}",
            )
        if isinstance(self.k, bool) or not isinstance(self.k, int) or self.k < 1:
            raise ValueError(f'k: expected 1 class or more, got {self.k!r}.')
        if self.name == 'top_k' and self.k >= self.classes:
            raise ValueError(
                f'k: expected fewer than the {self.classes} classes that there are, got {self.k}. To keep all, use '
                'the format dense.',
            )
        if self.name == 'sampled' and self.k > 65_535:
            raise ValueError(f'k: expected 65,535 draws or fewer, got {self.k}.')
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, (int, float)) or not (
            0 < self.temperature < math.inf
        ):
            raise ValueError(f'temperature: expected a finite number above 0, got {self.temperature!r}.')

    @classmethod
    def read(cls, spec: Any, classes: int, temperature: float | None, where: str = 'format') -> Format:
        """A format from what the user wrote: a name, or ``{name: top_k, k: 10, dtype: float16, temperature: 4.0}``.

        Args:
            spec: That, or ``None`` for ``dense`` of up to 64 classes and ``top_k`` of more.
            classes: Of the teacher.
            temperature: That of the training's loss, taken where the user says none; ``None`` where that varies.
            where: The setting, for messages.

        Raises:
            ValueError: For an unknown name or key, a value out of range, or a temperature that nobody says.
            TypeError: For something of another kind.
        """
        name, settings = split_named(spec or ('dense' if classes <= 64 else 'top_k'), where)
        if name not in KINDS:
            raise ValueError(f"{where}: expected {', '.join(KINDS)}, got {name!r}.{nearest(name, KINDS)}")
        check_keys(settings, _SETTINGS[name], where)
        if name != 'dense' and 'temperature' not in settings:
            if temperature is None:
                raise ValueError(
                    f"{where}: '{name}' keeps probabilities at one temperature, and the loss has none or one that "
                    'varies. Give a temperature, or use the format dense.',
                )
            settings['temperature'] = float(temperature)
        try:
            return cls(name, classes, **settings)
        except ValueError as error:
            raise ValueError(f'{where}.{error}' if not str(error).startswith('format') else str(error)) from None

    @classmethod
    def restore(cls, kept: Mapping[str, Any]) -> Format:
        """From what :meth:`plain` gave."""
        return cls(**kept)

    def plain(self) -> dict[str, Any]:
        """In plain types."""
        return asdict(self)

    def describe(self) -> str:
        """In a few words.

        Example:
            >>> Format('top_k', 1000, k=10, temperature=4.0).describe()
            'top_k, k 10, float16, temperature 4'
        """
        if self.name == 'dense':
            return f'dense, {self.dtype}'
        kept = f'k {self.k}, {self.dtype}' if self.name == 'top_k' else f'{self.k} draws'
        return f'{self.name}, {kept}, temperature {self.temperature:g}'

    @property
    def index_bytes(self) -> int:
        """Of the number of a class: 1, 2 or 4, by how many there are."""
        return 0 if self.name == 'dense' else 1 if self.classes <= 2**8 else 2 if self.classes <= 2**16 else 4

    @property
    def value_bytes(self) -> int:
        """Of a value."""
        if self.name == 'sampled':
            return 1 if self.k < 2**8 else 2
        return _DTYPES[self.dtype].itemsize

    @property
    def row_bytes(self) -> int:
        """Of a row."""
        if self.name == 'dense':
            return self.classes * self.value_bytes
        return self.k * (self.index_bytes + self.value_bytes) + (self.value_bytes if self.name == 'top_k' else 0)

    def sample_bytes(self, rows: float) -> float:
        """Of a sample with that many rows, check and its place in the tables included, before any compression."""
        return _HEADER + _PLACES + rows * self.row_bytes

    @property
    def bound(self) -> int:
        """Twice ``k * (value bytes + index bytes)``: what a row and its share of all else must not exceed."""
        return 2 * (self.classes if self.name == 'dense' else self.k) * (self.value_bytes + self.index_bytes)

    def pack(self, logits: Tensor, uniform: Tensor | None = None) -> Tensor:
        """Rows as bytes.

        Args:
            logits: Shape ``(R, classes)``.
            uniform: For ``'sampled'``, ``(R, k)`` numbers from 0 to below 1 by which the draws are made.

        Returns:
            Shape ``(R, row_bytes)`` uint8, on the same device.
        """
        if self.name == 'dense':
            return _bytes(_narrowed(logits, _DTYPES[self.dtype]))
        if self.name == 'top_k':
            classes, kept, rest = top_k(logits, self.k, self.temperature)
            values = torch.cat([kept, rest.unsqueeze(-1)], dim=-1).to(_DTYPES[self.dtype])
            return torch.cat([_whole_to_bytes(classes, self.index_bytes), _bytes(values)], dim=-1)
        assert uniform is not None, 'draws need numbers to be made by'
        classes, counts = draw(logits, uniform, self.temperature)
        # of NaN or infinity every draw is the class after the last: no draw at all, which comes back as NaN
        none = ~torch.isfinite(logits.amax(dim=-1, keepdim=True))
        classes, counts = classes.masked_fill(none, 0), counts.masked_fill(none, 0)
        return torch.cat(
            [_whole_to_bytes(classes, self.index_bytes), _whole_to_bytes(counts, self.value_bytes)], dim=-1,
        )

    def unpack(self, raw: Tensor) -> Answer:
        """What :meth:`pack` was given, as far as it was kept; dense logits in float32.

        A row that was no answer (NaN, plus infinity, or minus infinity alone) has NaN among its values.
        """
        if self.name == 'dense':
            return _from_bytes(raw, _DTYPES[self.dtype]).float()
        numbers, values = raw.split([self.k * self.index_bytes, raw.shape[-1] - self.k * self.index_bytes], dim=-1)
        classes = _bytes_to_whole(numbers, self.index_bytes)
        if self.name == 'top_k':
            kept = _from_bytes(values, _DTYPES[self.dtype]).float()
            return Sparse(classes, kept[..., :-1], kept[..., -1], self.temperature, False, self.classes)
        counts = _bytes_to_whole(values, self.value_bytes)
        share = (counts.float() / counts.sum(dim=-1, keepdim=True)).log()  # k of them, or none
        rest = torch.full_like(share[..., 0], -torch.inf)
        return Sparse(classes, share, rest, self.temperature, True, self.classes)


def _narrowed(logits: Tensor, dtype: torch.dtype) -> Tensor:
    # float16 ends at 65,504: what lies beyond it stays finite, and what was infinite stays so
    logits, largest = logits.float(), torch.finfo(dtype).max  # a teacher's of 16 bits cannot be held against float32's
    return torch.where(logits.isinf(), logits, logits.clamp(-largest, largest)).to(dtype)


def _bytes(values: Tensor) -> Tensor:
    return values.contiguous().view(torch.uint8)


def _from_bytes(raw: Tensor, dtype: torch.dtype) -> Tensor:
    # a copy of its own: a view of wider numbers must begin where such a number may
    found: Tensor = raw.clone(memory_format=torch.contiguous_format).view(dtype)
    return found


_SIGNED = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


def _whole_to_bytes(values: Tensor, width: int) -> Tensor:
    # int64 of no more than `width` bytes, lowest byte first: a cast to a narrower signed number keeps the bits
    return _bytes(values.to(_SIGNED[width]))


def _bytes_to_whole(raw: Tensor, width: int) -> Tensor:
    whole: Tensor = _from_bytes(raw, _SIGNED[width]).long() & (2 ** (8 * width) - 1)
    return whole
