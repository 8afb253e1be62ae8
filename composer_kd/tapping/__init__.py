"""Losses on layers in a training: what happens at its start, and in each batch."""

from composer_kd.tapping.during import Tapping

__all__ = ['Tapping']
