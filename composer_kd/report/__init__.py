"""Quality against cost, from run records: collected, compared, tabled and drawn. Imports no torch."""

from composer_kd.report.collect import (
    Collected,
    Row,
    at_median_price,
    collect,
    curves,
    lower_is_better,
    metric_names,
    read_rows,
)
from composer_kd.report.curves import Curve, Point
from composer_kd.report.plots import plot_quality_over_cost
from composer_kd.report.speedup import Estimate, SpeedUp, speedup
from composer_kd.report.tables import cost_table, quality_table, speedup_at_table, speedup_table, to_text

__all__ = [
    'Collected',
    'Curve',
    'Estimate',
    'Point',
    'Row',
    'SpeedUp',
    'at_median_price',
    'collect',
    'cost_table',
    'curves',
    'lower_is_better',
    'metric_names',
    'plot_quality_over_cost',
    'quality_table',
    'read_rows',
    'speedup',
    'speedup_at_table',
    'speedup_table',
    'to_text',
]
