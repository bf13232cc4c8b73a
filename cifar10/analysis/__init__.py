"""Metrics and figures: metrics by class, learning curves, confusion matrices."""
