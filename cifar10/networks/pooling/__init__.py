"""One small network in several versions, which differ in how they shrink feature maps. A version is a file."""
