"""Inference engines, one file each: see `cifar10.inference.predictor.Engine`."""
