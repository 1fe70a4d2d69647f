"""Keys and values side by side: what is copied, padded, hidden, forgotten and copied back."""

from __future__ import annotations

import pytest
import torch

from engine.batching.contiguous_cache import ContiguousCache
from engine.batching.paged_cache import token_rows
from models.vision_language_model import VisionLanguageModel
from tests.engine.batching.helpers import steady_of
from tests.engine.helpers import start

pytestmark = pytest.mark.usefixtures("quick")


def test_the_copy_pads_and_forgets(model: VisionLanguageModel) -> None:
    with start(model) as engine:
        allocator = steady_of(engine)._allocator
        pages = [side for layer in allocator.layer_indices for side in token_rows(allocator)[layer]]
        for side in pages:
            side.copy_(torch.rand(side.shape))
        requests = [list(range(3)), list(range(20, 27)), list(range(40, 45))]
        cache = ContiguousCache(allocator, max_tokens=100)
        cache.load(requests)
        assert cache.mask is not None
        assert (cache.mask[:, 0, 0] == 0).sum(1).tolist() == [3, 7, 5]
        cache.begin_token()
        new = torch.rand(3, allocator.num_key_value_heads, 1, allocator.head_dim)
        for layer in range(len(pages) // 2):
            cache.update(new, new, layer)
        cache.drop(1)
        assert cache.mask is not None
        assert (cache.mask[:, 0, 0] == 0).tolist() == [[False] * 2 + [True] * 4, [True] * 6]
        cache.begin_token()
        for layer in range(len(pages) // 2):
            for row, request in enumerate((0, 2)):
                own = requests[request]
                for found, side in zip(cache.update(new[:2], -new[:2], layer), pages[2 * layer :][:2], strict=True):
                    expected = side[own].view(len(own), allocator.num_key_value_heads, -1).transpose(0, 1)
                    assert torch.equal(found[row, :, -2 - len(own) : -2], expected)
                    assert torch.equal(found[row, :, -2], new[request, :, 0])
        assert cache.store(0, [60, 61])
        assert torch.equal(pages[0][60], new[0].flatten())
        assert torch.equal(pages[1][61], -new[0].flatten())


@pytest.mark.parametrize("number", [torch.nan, -torch.inf])
def test_numbers_that_are_none_do_not_come_into_the_pages(model: VisionLanguageModel, number: float) -> None:
    with start(model) as engine:
        allocator = steady_of(engine)._allocator
        cache = ContiguousCache(allocator, max_tokens=100)
        cache.load([[0], [8]])
        cache.begin_token()
        new = torch.ones(2, allocator.num_key_value_heads, 1, allocator.head_dim)
        new[0, 0, 0, 1] = number
        for layer in range(len(allocator.layer_indices)):
            cache.update(new, new, layer)
        assert [cache.store(0, [60]), cache.store(1, [61])] == [False, True]
        keys, values = token_rows(allocator)[0]
        assert keys[60].tolist() == values[60].tolist() == [float(place != 1) for place in range(keys.shape[1])]
