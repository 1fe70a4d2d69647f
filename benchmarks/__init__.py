"""How fast the program is, against the way the original demos work, on the same weights in the same run."""
