"""One experiment of the command line, from its composed config to its report."""
