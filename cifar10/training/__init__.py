"""Training: batches, augmentation, hard-example mining, running metrics, checkpointing, progress, resuming."""
