"""Sequences of training runs, each with the earlier ones as possible teachers."""
