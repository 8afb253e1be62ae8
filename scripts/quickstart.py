"""What does an earlier run save the next one? Measured, on real data, in about three minutes.

Trains an earlier run on scikit-learn's handwritten digits, then the same model at several durations with and without
the earlier run as its teacher, several seeds each, a full learning-rate schedule per duration. Prints quality, cost and
speed-up at equal quality, and draws the curves. Finished runs are kept and not made again. For other recipes there is
scripts/compare.py.

    python scripts/quickstart.py [--seeds 5] [--durations 2ep,4ep,8ep,12ep] [--earlier 24ep]
                                 [--noise 0.4] [--folder runs/quickstart]
"""

from __future__ import annotations

from pathlib import Path

import click
from compare import SEEDS, WORKERS, Comparison, compare, told

RECIPES = Path(__file__).resolve().parent.parent / 'yamls' / 'digits'
METHODS = {
    'baseline': RECIPES / 'baseline.yaml', 'always on': RECIPES / 'kd.yaml', 'first 30 %': RECIPES / 'kd_early.yaml',
    'every 4th batch': RECIPES / 'kd_every_4.yaml',
}


@click.command(help=(__doc__ or '').split('\n\n')[0])
@SEEDS
@click.option('--durations', default='2ep,4ep,8ep,12ep', show_default=True, help='Shortest first.')
@click.option('--earlier', default='24ep', show_default=True, help='Duration of the earlier run.')
@click.option('--noise', default=None, type=click.FloatRange(0),
              help="Pixel noise: how hard the task is; by default the recipe's, 0.4.")
@click.option('--folder', default='runs/quickstart', show_default=True, type=click.Path(path_type=Path))
@WORKERS
def main(seeds: int, durations: str, earlier: str, noise: float | None, folder: Path, workers: int) -> None:
    """Read the command line."""
    told(lambda: compare(Comparison(
        METHODS, folder, earlier, durations.split(','), seeds, 'test/MulticlassAccuracy', 'Test accuracy',
        'Noisy handwritten digits: the same model with and without an earlier run as its teacher', workers,
        [] if noise is None else [f'train_data.noise={noise}'],
    )))


if __name__ == '__main__':
    main()
