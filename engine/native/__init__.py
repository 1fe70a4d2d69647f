"""Steps on a CPU in C: the products, and the small operations between them.

operations       a step as a list of operations, in C's types
weight_formats   a linear layer's weights where they are, as C reads them
decoder_layers   which operations the layers of each language model are
prompt_pieces    a step that reads prompts, cut to what goes through the operations together
native_step      a model's steps in C, whose products are compared with the model's own at the start
step.c           the operations; the other files of C are parts of it
"""
