"""The commands: each function is one, its parameters are the flags and its docstring is the help.

A command checks its arguments, then imports its entry point, because torch, Lightning and Hydra take seconds: help and
error messages appear at once.
"""
