"""``scripts/train.py`` with a model that FSDP2 takes: digits_resnet lies channels last, which it does not."""

import sys

from composer_kd.runs.alive import end_with_launcher

if __name__ == '__main__':
    end_with_launcher()
    from composer.models import ComposerClassifier
    from torch import nn

    from composer_kd.models import MODELS
    from composer_kd.recipes import train_main

    @MODELS.register('flat')
    def flat(width: int = 4096) -> ComposerClassifier:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 10))
        return ComposerClassifier(layers, num_classes=10)

    sys.exit(train_main(sys.argv[1:]))
