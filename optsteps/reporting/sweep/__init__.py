"""The report of many runs: what their tables say together."""
