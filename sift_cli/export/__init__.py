"""Artifacts: one file with the model, its masks, its plan and its certificate inside."""
