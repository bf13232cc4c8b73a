"""Training: batches and augmentation, hard-example mining, running metrics, checkpoints, progress, resuming."""
