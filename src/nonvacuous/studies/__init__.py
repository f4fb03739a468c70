"""Experiments over many trainings, and joins of the rooms below."""
