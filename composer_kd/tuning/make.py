"""From a recipe to advice on its distillation."""

from __future__ import annotations

from collections.abc import Sequence

from composer_kd.recipes import Recipe
from composer_kd.tuning.advice import Advice, advise
from composer_kd.tuning.measure import measure
from composer_kd.tuning.storing import Tell
from composer_kd.tuning.subject import read_subject
from composer_kd.tuning.variants import variants_of


def tune_recipe(
    recipe: Recipe, teachers: Sequence[str] = (), budget: float = 0.1, runs: int = 1, gpus: int = 1,
    seconds: float = 60.0, compiled: bool = False, tell: Tell = lambda what, share: None,
) -> Advice:
    """Measure a recipe's distillation on this machine, and recommend when to distil, with whom, live or stored.

    Steps of the recipe's own training are timed with and without its teachers in turn, in a folder for temporary files;
    the recipe's run folder is not touched, and nothing is left behind.

    Args:
        recipe: The recipe.
        teachers: In YAML, teachers to take in place of the recipe's own.
        budget: The overhead that one is willing to pay, a share of the time without distillation, 0 or more.
        runs: How many trainings will use these teachers, 1 or more.
        gpus: Over how many ranks a batch is shared in the training; one share is measured.
        seconds: How long to measure, about; above 0. Two measurements of each kind are made, however long they take.
        compiled: Whether compiled teachers are measured, too.
        tell: Is told what is measured now, and which share of all is done.

    Returns:
        What was measured, what each way to distil will cost, and which is recommended.

    Raises:
        ValueError: For a recipe that is not valid or has no teacher, or settings out of range.
        TypeError: For a value of a wrong type.
        FileNotFoundError: For missing teachers or data.
    """
    if not budget >= 0:
        raise ValueError(f'budget: expected a share of 0 or more, got {budget!r}.')
    if runs < 1 or gpus < 1 or not seconds > 0:
        raise ValueError(f'expected runs and gpus of 1 or more and seconds above 0, got {runs}, {gpus} and {seconds}.')
    subject = read_subject(recipe, teachers, gpus)
    variants_of(subject.said, compiled)
    measured, length = measure(subject, seconds, compiled, tell)
    return advise(subject, length, measured, budget, runs)
