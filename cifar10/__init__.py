"""Image classification from a folder of images to a trained, measured, traceable classifier."""

__version__ = "0.1.0"
