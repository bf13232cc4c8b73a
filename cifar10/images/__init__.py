"""Image files: finding them in folders, and decoding files or bytes to RGB pixels."""
