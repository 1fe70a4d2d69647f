"""Annotation files of the original repositories -> examples -> batches."""
