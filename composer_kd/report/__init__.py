"""Quality against cost, from run records: collected, compared, tabled and drawn. Imports no torch."""

from composer_kd.report.charge import (
    BreakEven,
    Charged,
    TeachersCost,
    break_even,
    charged,
    teachers_cost,
    with_teachers,
)
from composer_kd.report.collect import (
    Collected,
    check_metric,
    collect,
    curves,
    is_higher_better,
    lower_is_better,
    metric_names,
)
from composer_kd.report.costs import COSTS, at_median_price, check_cost, cost_name, with_costs
from composer_kd.report.curves import Curve, Point
from composer_kd.report.glue_jobs import Job, next_job, plan_jobs, unmet
from composer_kd.report.glue_table import Line, glue_csv, glue_mean, glue_table, read_lines
from composer_kd.report.headline import comparison_headline, search_headline, sequence_headline
from composer_kd.report.interval import Estimate, Verdict, geometric_mean_of, mean_of, ratio_of
from composer_kd.report.overhead import Cut, OverheadSplit, cut, split
from composer_kd.report.pareto import ParetoPoint, pareto, points
from composer_kd.report.plain import Number, PlainTable, to_text
from composer_kd.report.plots import plot_quality_over_cost
from composer_kd.report.rows import Row, read_rows
from composer_kd.report.search import Chain, MeanBest, SearchStep, chains, mean_best
from composer_kd.report.search_gain import SearchGain, search_gain
from composer_kd.report.sequence import SequenceGain, SequenceResult, StepResult, sequence
from composer_kd.report.speedup import SpeedUp, speedup
from composer_kd.report.stored import StoredCost, stored_costs
from composer_kd.report.tables import cost_table, quality_table, speedup_at_table, speedup_table
from composer_kd.report.tables_costs import break_even_table, cut_table, overhead_table, pareto_table, stored_table
from composer_kd.report.tables_studies import best_runs_table, search_table, sequence_gain_table, sequence_table

__all__ = [
    'COSTS',
    'BreakEven',
    'Chain',
    'Charged',
    'Collected',
    'Curve',
    'Cut',
    'Estimate',
    'Job',
    'Line',
    'MeanBest',
    'Number',
    'OverheadSplit',
    'ParetoPoint',
    'PlainTable',
    'Point',
    'Row',
    'SearchGain',
    'SearchStep',
    'SequenceGain',
    'SequenceResult',
    'SpeedUp',
    'StepResult',
    'StoredCost',
    'TeachersCost',
    'Verdict',
    'at_median_price',
    'best_runs_table',
    'break_even',
    'break_even_table',
    'chains',
    'charged',
    'check_cost',
    'check_metric',
    'collect',
    'comparison_headline',
    'cost_name',
    'cost_table',
    'curves',
    'cut',
    'cut_table',
    'geometric_mean_of',
    'glue_csv',
    'glue_mean',
    'glue_table',
    'is_higher_better',
    'lower_is_better',
    'mean_best',
    'mean_of',
    'metric_names',
    'next_job',
    'overhead_table',
    'pareto',
    'pareto_table',
    'plan_jobs',
    'plot_quality_over_cost',
    'points',
    'quality_table',
    'ratio_of',
    'read_lines',
    'read_rows',
    'search_gain',
    'search_headline',
    'search_table',
    'sequence',
    'sequence_gain_table',
    'sequence_headline',
    'sequence_table',
    'speedup',
    'speedup_at_table',
    'speedup_table',
    'split',
    'stored_costs',
    'stored_table',
    'teachers_cost',
    'to_text',
    'unmet',
    'with_costs',
    'with_teachers',
]
