"""A run folder after a kill: what was cut short is put away, and the latest checkpoint is found again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from composer.utils import dist, format_name_with_dist
from torch.distributed.checkpoint.api import CheckpointException

from composer_kd.recipes.errors import cannot_write
from composer_kd.recipes.schema import Recipe
from composer_kd.runs import RunFolder, checkpoints
from composer_kd.runs.files import is_leftover

log = logging.getLogger(__name__)


def latest_link(recipe: Recipe) -> Path | None:
    """Where a resumed run finds its latest checkpoint; ``None`` if it is not looked for, or not in the run folder.

    The name is this rank's, and rank zero's is the one that counts.
    """
    if not recipe.autoresume or recipe.save_folder is not None or recipe.save_latest_filename is None:
        return None
    name = str(format_name_with_dist(recipe.save_latest_filename, recipe.run_name))
    return RunFolder(recipe.run_folder).checkpoints / name


def has_checkpoint(recipe: Recipe) -> bool:
    """Whether the run goes on from a checkpoint of its own, as rank zero sees it; all ranks must ask."""
    link = latest_link(recipe)
    return bool(dist.all_gather_object(link is not None and link.exists())[0])


def mend(recipe: Recipe) -> None:
    """Make an unfinished run fit to go on. Only whoever has the run folder's lock may call it, on one rank.

    Composer writes a checkpoint in its place, then removes the link to the latest one and makes it anew. Killed while
    it writes, it leaves a part of a file; killed between the last two, no link, and would begin from scratch without a
    word. Here the part is removed, and the link leads to the newest checkpoint that is whole.

    Raises:
        ValueError: If the latest checkpoint was damaged since it was written, and no other is there to go on from.
    """
    folder = RunFolder(recipe.run_folder)
    _put_away(folder)
    link = latest_link(recipe)
    if link is None:
        return
    latest, newest = checkpoints.target_of(link), checkpoints.newest(folder.checkpoints)
    whole = latest is not None and checkpoints.is_checkpoint(latest) and not checkpoints.is_torn(latest)
    if latest is not None and not whole:
        if newest is None and latest.exists():
            raise ValueError(
                f"run_folder: the latest checkpoint of this run, '{latest}', is cut short, and there is no other to go "
                'on from. Copy it again from where it was kept, or remove it to begin from scratch.',
            )
        log.warning("'%s' is %s; the run %s.", latest, 'cut short' if latest.exists() else 'gone',
                    f"goes on from '{newest.name}'" if newest is not None else 'begins from scratch')
    if newest is not None and not (whole and latest is not None and _as_new(latest, newest)):
        checkpoints.point_to(link, newest)
    torn = checkpoints.remove_torn(folder.checkpoints)
    if torn:
        log.warning("Removed from '%s', cut short while it was written: %s.", folder.checkpoints, ', '.join(torn))
    if recipe.save_num_checkpoints_to_keep > 0:
        # Composer removes those of its own start alone, and each restart would leave some more.
        _keep(folder.checkpoints, recipe.save_num_checkpoints_to_keep, checkpoints.target_of(link))


def _put_away(folder: RunFolder) -> None:
    """Remove the temporary files of writers that were killed."""
    for place in (folder.path, folder.checkpoints):
        for path in place.iterdir() if place.is_dir() else ():
            if is_leftover(path) or path.name.startswith('._signal_file_node'):
                path.unlink(missing_ok=True)


def _as_new(latest: Path, newest: Path) -> bool:
    """Whether the link may stay: it leads to the newest, or nobody can tell which is."""
    own, other = checkpoints.counts(latest.name), checkpoints.counts(newest.name)
    return own is None or other is None or own >= other or checkpoints.is_packed(newest)


def _keep(folder: Path, count: int, latest: Path | None) -> None:
    whole = [path for path in checkpoints.saved(folder) if checkpoints.is_checkpoint(path) and not path.is_symlink()]
    checkpoints.remove([path for path in whole[:-count] if latest is None or path.name != latest.name])


@contextmanager
def told_of_disk(recipe: Recipe) -> Iterator[None]:
    """Say so, where what is raised in here comes from a run folder that cannot be written any more.

    What was cut short is removed at once: on a full disk the record needs the room. Only whoever has the folder's lock
    may enter.

    Raises:
        RuntimeError: In place of such an error.
    """
    try:
        yield
    except (Exception, CheckpointException) as error:
        told = cannot_write(recipe.run_folder, error)
        if told is None:
            raise
        if dist.get_global_rank() == 0:
            with suppress(OSError):
                checkpoints.remove_torn(RunFolder(recipe.run_folder).checkpoints)
        raise RuntimeError(told) from error
