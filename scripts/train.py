"""Train a recipe: ``composer -n RANKS scripts/train.py RECIPE.yaml [key=value ...]``."""

import sys

from composer_kd.runs.alive import end_with_launcher

if __name__ == '__main__':
    end_with_launcher()  # before Composer is imported, which takes seconds
    from composer_kd.recipes import train_main

    sys.exit(train_main(sys.argv[1:]))
