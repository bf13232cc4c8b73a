"""The command line: arguments are parsed into one command and its parameters, or an error message."""
