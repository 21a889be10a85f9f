"""Whole trainings from a file: what ``sift train`` does. torch is imported by the modules that need it."""
