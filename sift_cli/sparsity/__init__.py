"""Masks at work: how they are drawn and how they are stored."""
