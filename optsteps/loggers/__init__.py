"""Loggers: they receive the figures of a run besides its own folder."""
