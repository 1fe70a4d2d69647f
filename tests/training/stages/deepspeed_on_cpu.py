"""`python -m training` with DeepSpeed over CPU processes.

For tests: without DeepSpeed's exchange through shared memory, which it would compile first, for minutes.
"""

from __future__ import annotations

import sys

import deepspeed.ops  # type: ignore[import-not-found]  # an extra

from training.train import main

if __name__ == "__main__":
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    sys.exit(main())
