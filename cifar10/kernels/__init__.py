"""Machine code for what the library does slowly on a CPU: 3 x 3 convolutions, pooling, normalise-and-activate."""
