"""The operating system: signals, streams, memory, processors, processes, home folders."""
