"""Runs: the run folder, checkpoints and their names, MLflow, provenance."""
