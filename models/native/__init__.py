"""C code that this machine's own compiler makes a library of."""
