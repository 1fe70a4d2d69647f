"""The pools of instructions that the MiniGPT line was trained with."""

from __future__ import annotations

from training import instructions


def test_pools_have_the_originals_sizes() -> None:
    pools = (
        instructions.REFER_POOL,
        instructions.IDENTIFY_POOL,
        instructions.VQA_POOL,
        instructions.GROUNDING_POOL,
        instructions.CAPTION_POOL,
        instructions.ALIGNMENT_PROMPTS,
    )
    assert [len(pool) for pool in pools] == [7, 7, 2, 4, 17, 4]
    assert "[caption] A photo of " in instructions.CAPTION_POOL  # the space at the end is the original's
