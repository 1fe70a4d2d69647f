"""`python -m training` with FSDP over CPU processes, which torch can do and accelerate has no way to ask for.

For tests: accelerate is told that the processes have GPUs each; tensors, and so all computing, stay on the CPU.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from accelerate import DistributedType, PartialState  # type: ignore[import-untyped]

from training.train import main


def pretend() -> None:
    """Make accelerate take its branch for several GPUs."""
    set_up = PartialState.__init__

    def init(self: PartialState, *args: Any, **kwargs: Any) -> None:
        set_up(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = init
    PartialState.wait_for_everyone = lambda _: torch.distributed.barrier()  # accelerate's names a GPU


if __name__ == "__main__":
    pretend()
    sys.exit(main())
