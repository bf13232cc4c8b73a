"""What the operating system gives and takes: signals, streams, memory, processors, processes, home folders."""
