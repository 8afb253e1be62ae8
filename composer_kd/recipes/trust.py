"""What Composer may load: checkpoints of tensors and plain values, unless the recipe trusts whoever made them."""

from __future__ import annotations

import ast
import pickle
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import composer.algorithms
from composer.core import Algorithm, State
from composer.utils import checkpoint, dist, parse_uri
from torch.distributed.checkpoint import CheckpointException

from composer_kd.models.outside import raise_everywhere, replaced, told
from composer_kd.recipes.schema import Recipe
from composer_kd.teachers.safe import cause_of, safely, unpack_states, why_refused

_ENUMERATIONS = ('Event', 'TimeUnit')


class _Refused(ValueError):
    """A checkpoint that could run code."""


def _is_plain(node: ast.expr) -> bool:
    """Whether an argument is a value that is written out, or what else Composer's own algorithms show of themselves."""
    if isinstance(node, ast.Attribute):
        return isinstance(node.value, ast.Name) and node.value.id in _ENUMERATIONS
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == 'Time' and _has_plain_arguments(node)
    if isinstance(node, ast.Name):
        return node.id == 'act_fn'  # of GatedLinearUnits; nothing has that name, and Composer warns of it
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return False
    return True


def _has_plain_arguments(call: ast.Call) -> bool:
    return all(map(_is_plain, call.args)) and all(
        keyword.arg is not None and _is_plain(keyword.value) for keyword in call.keywords
    )


def runs_code(name: Any, representation: Any) -> bool:
    """Whether Composer, which evaluates how an algorithm shows itself in a checkpoint, would run more than its call.

    Args:
        name: The algorithm's name in the checkpoint.
        representation: What the checkpoint says that it shows itself as.

    Example:
        >>> runs_code('BlurPool', 'BlurPool(replace_convs=True,min_channels=16)')
        False
        >>> runs_code('BlurPool', 'BlurPool(min_channels=print(1))')
        True
    """
    kind = vars(composer.algorithms).get(name) if isinstance(name, str) else None
    if not (isinstance(kind, type) and issubclass(kind, Algorithm) and kind.required_on_load()):
        return False  # evaluated only for those
    try:
        node = ast.parse(f'algorithms.{representation}', mode='eval').body
    except SyntaxError:
        return False  # nor can Composer, which warns of it
    except (ValueError, MemoryError, RecursionError):
        return True
    named = isinstance(node, ast.Call) and ast.unparse(node.func) == f'algorithms.{name}'
    return not (named and isinstance(node, ast.Call) and _has_plain_arguments(node))


def _checking_algorithms(original: Callable[..., Any]) -> Callable[..., Any]:
    def apply(self: State, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        saved = state_dict['algorithms']
        for name, state in saved if isinstance(saved, list) else ():
            if runs_code(name, state['repr']):
                raise _Refused(f'its algorithm {name} shows itself as {str(state["repr"])[:80]!r}')
        return original(self, state_dict, *args, **kwargs)
    return apply


def _why(error: BaseException, file: str) -> Exception:
    """What is told of an error that loading a checkpoint raised."""
    reason = str(error) if isinstance(error, _Refused) else why_refused(error)
    if reason is not None:
        return ValueError(
            f'{file} holds more than tensors and plain values, or is no checkpoint ({reason}), so loading it could run '
            'code of whoever made it. It was not loaded. If you made it yourself, load_trusted: true in the recipe '
            'loads it all the same.',
        )
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(f'{file} is not there ({error}).')
    return ValueError(f'{file} cannot be loaded; it may be truncated or something else. ({told(cause_of(error))})')


def _downloading_together(original: Callable[..., Any], file: str) -> Callable[..., Any]:
    """Composer's way to bring a checkpoint here, whose errors reach the ranks that wait for it."""
    def download_checkpoint(*args: Any, **kwargs: Any) -> Any:
        brought, error = None, None
        try:
            brought = original(*args, **kwargs)
        except Exception as found:
            error = _why(found, file)
        raise_everywhere(error)
        return brought
    return download_checkpoint


def _loading_together(original: Callable[..., Any], file: str) -> Callable[..., Any]:
    """Composer's reader of a file, whose errors reach the ranks that did not read it."""
    # the parameters' names are Composer's
    def load(composer_states_filepath: Any, map_location: str = 'cpu', load_monolith_rank0_only: bool = False) -> Any:
        loaded, error = None, None
        if dist.get_global_rank() == 0 or not load_monolith_rank0_only:
            try:
                loaded = checkpoint._torch_load_with_validation(composer_states_filepath, map_location)
            except Exception as found:
                error = _why(found, file)
        raise_everywhere(error)
        with replaced(checkpoint, '_torch_load_with_validation', lambda *args, **kwargs: loaded):
            return original(composer_states_filepath, map_location, load_monolith_rank0_only)
    return load


def _guarded(original: Callable[..., Any], recipe: Recipe) -> Callable[..., Any]:
    def load_checkpoint(path: str, *args: Any, **kwargs: Any) -> Any:
        given = recipe.load_path is not None and path == parse_uri(recipe.load_path)[2]
        file = f'load_path: {recipe.load_path!r}' if given else f'autoresume: the checkpoint {path!r}'
        with ExitStack() as stack:
            stack.enter_context(safely())
            for owner, name, value in (
                (tarfile.TarFile, 'extractall', unpack_states),
                (State, '_apply_required_algorithms', _checking_algorithms(State._apply_required_algorithms)),
                (checkpoint, 'download_checkpoint', _downloading_together(checkpoint.download_checkpoint, file)),
                (checkpoint, 'safe_torch_load', _loading_together(checkpoint.safe_torch_load, file)),
            ):
                stack.enter_context(replaced(owner, name, value))
            try:
                return original(path, *args, **kwargs)
            except (_Refused, pickle.UnpicklingError, CheckpointException) as error:
                raise _why(error, file) from error
    return load_checkpoint


@contextmanager
def guarded_loading(recipe: Recipe) -> Iterator[None]:
    """While a Trainer is made, which loads checkpoints, let it load tensors and plain values alone.

    Composer 0.32.1 unpickles checkpoints, and evaluates what their algorithms show themselves as: either runs whatever
    the maker of the file put there. A recipe with ``load_trusted`` leaves it at that.

    Args:
        recipe: The recipe that the Trainer is made from.

    Raises:
        ValueError: On every rank, if the checkpoint holds anything else.
    """
    if recipe.load_trusted:
        yield
        return
    with replaced(checkpoint, 'load_checkpoint', _guarded(checkpoint.load_checkpoint, recipe)):
        yield
