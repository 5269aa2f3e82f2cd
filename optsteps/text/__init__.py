"""Text for people: names and values escaped for every format, suggestions for misspelt names, the terminal."""
