"""From files or bytes to RGB pixels, or the reason why not; and finding image files in folders."""
