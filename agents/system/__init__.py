"""The interface to the operating system: files, processes, signals, limits."""
