"""The record of a run: its folder, its checkpoints and how they are found, MLflow, and provenance."""
