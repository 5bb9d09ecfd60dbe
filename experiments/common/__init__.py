"""What all experiments share: the command line, results, tables, figures, layers and data."""
