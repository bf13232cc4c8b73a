"""Image classification from a folder of images to a trained, measured, traceable classifier."""

import time

STARTED_AT = time.monotonic()
"""When the program's first line ran, by `time.monotonic`: before anything heavy was imported.

:meta hide-value:
"""

__version__ = "0.1.0"
