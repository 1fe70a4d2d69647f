"""Linear layers of 8 and 4 bits as a CPU multiplies them, in the place of bitsandbytes' own.

The weights are bitsandbytes': the same integers and scales, from the same files. What is different is the product, for
which bitsandbytes reads the whole matrix back at every step.
"""
