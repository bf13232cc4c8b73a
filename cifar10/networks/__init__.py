"""Network architectures, as plain PyTorch modules."""
