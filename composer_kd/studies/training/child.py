"""The process that trains: one run of a study under Composer's launcher, or many after each other in one process.

``composer -n 8 -m composer_kd.studies.training.child JOB.json`` makes one run; without arguments the process does what
it is asked on stdin, a line for each request, and answers on stdout.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from composer_kd.runs import write_atomically
from composer_kd.runs.lock import FolderBusy
from composer_kd.studies.work.alive import end_with_worker
from composer_kd.studies.work.jobs import BUSY, PRUNED, REFUSED, STORAGE, Answer, Job, answer_path


def train_job(job: Job) -> Answer:
    """Make a run; an unfinished one goes on where its latest checkpoint is, a finished one is kept.

    Returns:
        How it ended; ``status`` 1 is for errors that are not the user's, with the traceback as message.
    """
    from composer_kd.recipes import recipe_digest, train
    from composer_kd.runs import RunFolder
    from composer_kd.studies.training.making import make_recipe
    from composer_kd.studies.training.pruning import Pruning

    def run() -> Answer:
        recipe, folder = make_recipe(job), RunFolder(job.run_folder)
        if folder.record_path.exists():
            record = folder.read_record()
            if record.status == 'finished' and record.recipe_digest == recipe_digest(recipe.plain()):
                return Answer(status=0)  # its worker died before it could say so
        pruning = Pruning(os.environ[STORAGE], job.pruning, job.metric) if job.pruning is not None else None
        train(recipe, [pruning] if pruning is not None else [])
        if pruning is not None and pruning.pruned:
            return Answer(status=PRUNED, message=pruning.told)
        return Answer(status=0)

    return _answered(run)


def check_job(job: Job) -> Answer:
    """See whether a run could be made, without data, accelerator or training; its teachers need not be there yet."""
    from composer_kd.studies.training.making import check

    def run() -> Answer:
        check(job)
        return Answer(status=0)

    return _answered(run)


def _answered(run: Callable[[], Answer]) -> Answer:
    from composer_kd.recipes.errors import told_to_user

    try:
        return run()
    except FolderBusy as error:
        return Answer(status=BUSY, message=str(error))
    except Exception as error:
        message = told_to_user(error)
        if message is not None:
            return Answer(status=REFUSED, message=message)
        return Answer(status=1, message=traceback.format_exc())


def serve(requests: IO[str], answers: IO[str]) -> None:
    """Do what is asked until there is nothing more, a JSON object a line: ``{"do": "train", "job": ..., "log": ...}``.

    Everything that is printed meanwhile goes to the log.
    """
    _one_thread_each()
    for line in requests:
        request = json.loads(line)
        with _printing_to(request['log']):
            job = Job.read(request['job'])
            answer = train_job(job) if request['do'] == 'train' else check_job(job)
            if answer.message:
                print(answer.message, file=sys.stderr)
        answers.write(answer.model_dump_json() + '\n')
        answers.flush()


class _printing_to:
    """Standard output and error of this process and of those that it starts, appended to a file."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._kept = [(fd, os.dup(fd)) for fd in (1, 2)]
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for fd, _ in self._kept:
            os.dup2(file, fd)
        os.close(file)

    def __exit__(self, *_: Any) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, kept in self._kept:
            os.dup2(kept, fd)
            os.close(kept)


def _one_thread_each() -> None:
    threads = os.environ.get('OMP_NUM_THREADS')
    if threads:
        import torch

        torch.set_num_threads(int(threads))


def main(arguments: list[str]) -> int:
    """Train the job of that file, or serve."""
    end_with_worker()
    if arguments:
        answer = train_job(Job.read(arguments[0]))
        if answer.message:
            print(answer.message, file=sys.stderr)
        # The launcher ends all ranks when one ends otherwise than well, and its own status is then any rank's.
        if answer.status in (REFUSED, BUSY) or (answer.status == PRUNED and os.environ.get('RANK', '0') == '0'):
            write_atomically(answer_path(Path(arguments[0])), answer.model_dump_json())
        return 0 if answer.status == PRUNED else answer.status
    # The pipe of the answers is kept for them: what is printed by anything else would break a line.
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    warnings.simplefilter('default')
    serve(sys.stdin, answers)
    return 0


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
