"""What touches the operating system: files, processes, signals, limits."""
