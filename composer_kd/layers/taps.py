"""Layers named by module path, whose outputs are captured by hooks while a loss asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from composer_kd.names import nearest

INPUT = 'input'
_PROBABILITIES = ('dropout', 'attn_dropout', 'attention_dropout')
"""Children of attention modules that are given the probabilities, and nothing else."""
_SHARES_DROPPED = ('attention_dropout', 'attention_probs_dropout_prob', 'dropout_prob')
"""What attention modules call the share they drop where no child of theirs does."""


class Tap(NamedTuple):
    """What is captured of a model.

    Attributes:
        path: Of the module, dotted as in ``named_modules()``.
        item: Which item of its output: an index; ``'input'`` for what it is given in place of what it gives; ``None``
            for the output itself, or of several the first tensor of floating point.
        attention: Whether attention is wanted, ``(N, heads, L, L)``.

    Example:
        >>> Tap.read('encoder.layer.3:1')
        Tap(path='encoder.layer.3', item=1, attention=False)
        >>> str(Tap.read('dropout:input'))
        'dropout:input'
    """

    path: str
    item: int | str | None = None
    attention: bool = False

    @classmethod
    def read(cls, said: Any, where: str = 'layer', attention: bool = False) -> Tap:
        """Read ``PATH``, ``PATH:INDEX`` or ``PATH:input``.

        Raises:
            TypeError: For anything but a string.
            ValueError: For another item.
        """
        if not isinstance(said, str) or not said.partition(':')[0]:
            raise TypeError(f"{where}: expected a module's path as in named_modules(), got {said!r}.")
        path, colon, item = said.partition(':')
        if colon and item != INPUT and not item.isdecimal():
            raise ValueError(f"{where}: expected 'PATH', 'PATH:INDEX' or 'PATH:input', got {said!r}.")
        return cls(path, None if not colon else item if item == INPUT else int(item), attention)

    def __str__(self) -> str:
        return self.path if self.item is None else f'{self.path}:{self.item}'


def find_module(model: torch.nn.Module, path: str, whose: str, where: str) -> torch.nn.Module:
    """The module of a path; the name under which a Composer model keeps the module it wraps may be left out.

    Raises:
        ValueError: If there is none, with the nearest.
    """
    modules: dict[str, torch.nn.Module] = dict(model.named_modules())
    for prefix in ('', 'module.', 'model.'):
        if prefix + path in modules:
            return modules[prefix + path]
    names = [name for name in modules if name]
    near = nearest(path, [*names, *(name.partition('.')[2] for name in names if '.' in name)])
    some = '' if near else f" Among its modules are: {', '.join(names[:12])}."
    raise ValueError(
        f"{where}: {whose} has no module '{path}'.{near}{some} Paths are those of named_modules(); composer-kd inspect "
        "lists a teacher's.",
    )


def pick(tap: Tap, args: Sequence[Any], output: Any) -> Tensor | None:
    """What a tap captures of one call of its module; ``None`` if there is no such tensor."""
    if tap.item == INPUT:
        found = next((value for value in args if isinstance(value, Tensor)), None)
        return found if found is None or found.is_floating_point() else None
    if isinstance(tap.item, int):
        values = _values(output)
        found = values[tap.item] if tap.item < len(values) else None
        return found if isinstance(found, Tensor) and found.is_floating_point() else None
    fits = _is_attention if tap.attention else _is_feature
    return next((value for value in _values(output) if fits(value)), None)


def _values(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    return list(output) if isinstance(output, (tuple, list)) else [output]


def _is_feature(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() >= 2


def _is_attention(value: Any) -> bool:
    return _is_feature(value) and value.dim() == 4 and value.shape[-1] == value.shape[-2]


def _drops(module: torch.nn.Module) -> bool:
    """Whether an attention module drops some of its attention, by a function and not by a module of its own."""
    shares = (getattr(part, name, 0.0) for part in module.modules() for name in _SHARES_DROPPED)
    return module.training and any(isinstance(share, float) and share > 0 for share in shares)


class Taps:
    """Hooks on the layers of a model.

    What they see is kept only between :meth:`open` and :meth:`take`: the forward that activation checkpointing repeats
    during the backward pass is none of theirs, and neither is an evaluation's.

    Args:
        model: The model, before it is wrapped or compiled: hooks are part of what is compiled.
        taps: What to capture.
        whose: Of which model, for messages.
        where: Which setting names the layers, for messages.

    Raises:
        ValueError: For a path that is none of the model's.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
        >>> taps = Taps(model, [Tap('1')], 'the student')
        >>> taps.open()
        >>> _ = model(torch.zeros(5, 4))
        >>> taps.take()[Tap('1')].shape
        torch.Size([5, 3])
    """

    def __init__(self, model: torch.nn.Module, taps: Sequence[Tap], whose: str, where: str = 'losses') -> None:
        self._on, self._learning, self._whose, self._where = False, False, whose, where
        self._found: dict[str, Tensor] = {}
        self._versions: dict[str, int] = {}
        self._dropped: set[str] = set()
        self._calls: dict[str, int] = {}
        self._inside: dict[str, bool] = {}
        self._taps = list(dict.fromkeys(taps))
        self._hooks: list[tuple[torch.nn.Module, Callable[..., None]]] = [
            (find_module(model, tap.path, whose, where), self._hook(tap)) for tap in self._taps
        ]
        for tap in self._taps:
            if tap.attention and tap.item is None:
                self._watch_probabilities(find_module(model, tap.path, whose, where), tap)
        self._handles: list[Any] = []
        self.put_back()

    def put_back(self) -> None:
        """Hook on, where :meth:`remove` took the hooks off."""
        if not self._handles:
            self._handles = [module.register_forward_hook(hook) for module, hook in self._hooks]

    def _watch_probabilities(self, module: torch.nn.Module, tap: Tap) -> None:
        """What an attention module gives to its dropout is what is wanted; what it returns has been through that."""
        for name, child in module.named_children():
            if name in _PROBABILITIES:
                self._hooks.append((child, self._hook(tap, tap._replace(item=INPUT), inside=True)))

    def _hook(self, tap: Tap, reads: Tap | None = None, inside: bool = False) -> Callable[..., None]:
        key, reads = str(tap), tap if reads is None else reads

        def hook(module: torch.nn.Module, args: Any, output: Any) -> None:
            if not self._on or (not inside and key in self._inside):
                return
            # a callback may ask the student something without gradients in between, as for its FLOPs
            learning = torch.is_grad_enabled()
            if learning and not self._learning:
                self._found, self._calls, self._inside, self._learning = {}, {}, {}, True
            if self._learning and not learning and key in self._found:
                return
            found = pick(reads, args, output)
            if found is not None and (not tap.attention or _is_attention(found)):
                self._calls[key] = self._calls.get(key, 0) + 1
                self._found[key] = found
                if not found.is_inference():  # those cannot be changed in place by what learns
                    self._versions[key] = found._version
                if tap.attention and tap.item is None and not inside and learning and _drops(module):
                    self._dropped.add(key)
                if inside:
                    self._inside[key] = True
        return hook

    def open(self) -> None:
        """A forward begins whose features are wanted."""
        self._found, self._calls, self._inside, self._versions, self._dropped = {}, {}, {}, {}, set()
        self._on, self._learning = True, False

    def take(self) -> dict[Tap, Tensor]:
        """What was captured since, and no more from now on.

        Raises:
            ValueError: For a layer that gave nothing that can be taken, or was called more than once.
        """
        found, calls, versions = self._found, self._calls, self._versions
        self._on, self._found, self._calls = False, {}, {}
        for tap in self._taps:
            if str(tap) not in found:
                raise ValueError(f'{self._where}: {self._told_missing(tap)}')
            if calls[str(tap)] > 1:
                raise ValueError(
                    f"{self._where}: module '{tap.path}' of {self._whose} is called {calls[str(tap)]} times in a "
                    'forward, so that it is not known which output is meant. Name one that is called once, such as '
                    'the module around it.',
                )
            if versions.get(str(tap)) not in (None, found[str(tap)]._version):
                raise ValueError(
                    f"{self._where}: what module '{tap.path}' of {self._whose} gives is changed in place by what "
                    'follows (as ReLU(inplace=True) or += do), so that it is no longer what that module gave. Name the '
                    'module after or around it, or take inplace away.',
                )
            if str(tap) in self._dropped:
                raise ValueError(
                    f"{self._where}: module '{tap.path}' of {self._whose} shows its attention after dropout alone, "
                    'which is not what was attended to. Set its attention dropout to 0.',
                )
        return {tap: found[str(tap)] for tap in self._taps}

    def _told_missing(self, tap: Tap) -> str:
        who = f"module '{tap.path}' of {self._whose}"
        if tap.attention:
            return (
                f'{who} shows no attention probabilities (N, heads, L, L): fused attention (sdpa, flash) never makes '
                "them. Build the model with attn_implementation: eager (Hugging Face), or name the module that has "
                "them, 'PATH:INDEX' for an item of its output or 'PATH:input' for what it is given."
            )
        wanted = f'a tensor of floating point at {tap.item} of its output'
        if not isinstance(tap.item, int):
            wanted = 'a tensor as its first input' if tap.item == INPUT else (
                'a tensor of floating point with two dimensions or more'
            )
        return (
            f'{who} did not give {wanted} in this forward. Name a module that runs in every forward and gives one, or '
            "'PATH:INDEX' for an item of a tuple."
        )

    @property
    def removed(self) -> bool:
        """Whether the hooks are gone."""
        return not self._handles

    def remove(self) -> None:
        """Take the hooks off again."""
        self._on, self._found = False, {}
        for handle in self._handles:
            handle.remove()
        self._handles = []


class Watch:
    """Captures layers of a teacher around each of its forwards, whichever copy of the model is asked.

    Args:
        taps: What to capture.
        whose: Of which teacher, for messages.
        where: Which setting names the layers, for messages.
    """

    def __init__(self, taps: Sequence[Tap], whose: str, where: str = 'losses') -> None:
        self._taps, self._whose, self._where = list(taps), whose, where
        self._latest: dict[Tap, Tensor] = {}

    @contextmanager
    def __call__(self, model: torch.nn.Module) -> Iterator[None]:
        """Around one forward."""
        taps = Taps(model, self._taps, self._whose, self._where)
        taps.open()
        try:
            yield
            self._latest = taps.take()
        finally:
            taps.remove()

    def take(self) -> dict[Tap, Tensor]:
        """What the latest forward gave; handed out once."""
        latest, self._latest = self._latest, {}
        return latest
