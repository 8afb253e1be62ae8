"""Callbacks: what a run cost and reached, written down while it runs."""

from composer_kd.callbacks.flops import forward_flops, forward_flops_per_sample, untouched
from composer_kd.callbacks.machine import hardware, package_versions
from composer_kd.callbacks.run_recorder import RunRecorder

__all__ = [
    'RunRecorder',
    'forward_flops',
    'forward_flops_per_sample',
    'hardware',
    'package_versions',
    'untouched',
]
