"""The HTTP service: a FastAPI application on a `Predictor`. With ONNX files it imports no torch."""
