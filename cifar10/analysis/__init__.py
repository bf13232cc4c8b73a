"""Measures and figures: scores by class, learning curves, confusion matrices."""
