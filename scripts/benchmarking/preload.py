"""Imported once by the process that the others are forked from, so that they start in a moment."""

import composer
import torchvision
import transformers

import benchmarking.composing
import benchmarking.plain
import composer_kd

__all__ = ['benchmarking', 'composer', 'composer_kd', 'torchvision', 'transformers']
