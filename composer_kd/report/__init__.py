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
from composer_kd.report.glue_jobs import Job, next_job, plan_jobs, unmet
from composer_kd.report.glue_table import Line, glue_csv, glue_mean, glue_table, read_lines
from composer_kd.report.plots import plot_quality_over_cost
from composer_kd.report.speedup import Estimate, SpeedUp, speedup
from composer_kd.report.tables import cost_table, quality_table, speedup_at_table, speedup_table, to_text

__all__ = [
    'Collected',
    'Curve',
    'Estimate',
    'Job',
    'Line',
    'Point',
    'Row',
    'SpeedUp',
    'at_median_price',
    'collect',
    'cost_table',
    'curves',
    'glue_csv',
    'glue_mean',
    'glue_table',
    'lower_is_better',
    'metric_names',
    'next_job',
    'plan_jobs',
    'plot_quality_over_cost',
    'quality_table',
    'read_lines',
    'read_rows',
    'speedup',
    'speedup_at_table',
    'speedup_table',
    'to_text',
    'unmet',
]
