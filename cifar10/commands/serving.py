"""Commands that put a network in front of other people and programs."""
