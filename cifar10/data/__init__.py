"""Data sets: reading, downloading, verifying and exporting them."""
