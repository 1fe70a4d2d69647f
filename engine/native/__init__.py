"""Decode steps on a CPU in C: the small operations between the large products of a step, and these for a few tokens.

operations       a step as a list of operations, in C's types
weight_formats   a linear layer's weights where they are, as C reads them
decoder_layers   which operations the layers of each language model are
native_step      a model's decode step in C, compared with the model's own at the start
step.c           the operations; vectors.h, inputs.h, products.h and attention.h are parts of it
"""
