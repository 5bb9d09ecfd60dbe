"""Shared by all experiments: command line, results, tables, figures, layers and data."""
