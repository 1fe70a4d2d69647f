"""How other models write boxes: one small reader for each."""
