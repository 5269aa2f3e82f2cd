"""Text for people: names and values made harmless in every format, near names of a misspelt one, the terminal."""
