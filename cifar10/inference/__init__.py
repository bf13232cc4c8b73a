"""From pixels to class probabilities: engines, test-time augmentation, result files."""
