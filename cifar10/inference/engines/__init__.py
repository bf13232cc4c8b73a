"""What computes probabilities, one file an engine; each is a `cifar10.inference.predictor.Engine`."""
