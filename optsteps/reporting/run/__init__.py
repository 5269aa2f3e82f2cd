"""Report of one run: tables, pictures, and the files of its folder."""
