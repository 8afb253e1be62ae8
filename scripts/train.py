"""Train a recipe: ``composer -n RANKS scripts/train.py RECIPE.yaml [key=value ...]``."""

import sys

from composer_kd.recipes import train_main

if __name__ == '__main__':
    sys.exit(train_main(sys.argv[1:]))
