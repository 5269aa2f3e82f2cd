"""Loggers, which take the numbers of a run besides its own folder."""
