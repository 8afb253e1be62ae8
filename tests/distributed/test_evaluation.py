"""Several ranks evaluate the model that is saved, not one with the statistics of each rank's own batches."""

import pytest

from composer_kd.recipes.tasks.digits import digits
from composer_kd.teachers import model_of_run

pytestmark = [pytest.mark.distributed, pytest.mark.slow]


def test_an_evaluation_on_two_ranks_is_that_of_the_model_that_is_saved(alone):
    record = alone.folder.read_record()
    assert record.world_size == 2
    model = model_of_run(str(alone.folder.path))
    metrics = model.get_metrics(is_train=False)
    for batch in digits(512, seed=5, train=False, split='test').dataloader:
        outputs = model.eval_forward(batch)
        for metric in metrics.values():
            model.update_metric(batch, outputs, metric)
    found = {name: float(metric.compute()) for name, metric in metrics.items()}
    assert record.evaluations[-1].batch == record.batches
    assert record.evaluations[-1].metrics['test'] == pytest.approx(found, rel=1e-5)
