"""The forms of data, by theme: for each a small function from a row to its cases, and a row in the table of its file."""
