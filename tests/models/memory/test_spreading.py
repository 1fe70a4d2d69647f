"""Layers over several GPUs, planned at full size on the meta device, where nothing is allocated."""

from __future__ import annotations

from itertools import groupby

import pytest
import torch
from transformers import PreTrainedModel

from models.errors import NotEnoughMemory
from models.memory.serving import Serving
from models.memory.sizes import plan_keys_and_values, weight_bytes
from models.memory.spreading import Spread, most_for_all, spread
from models.tensors.empty import empty_module
from tests.models.layouts import minigpt_full_size as minigpt
from tests.models.layouts import moe_full_size as moe

GIB = 2**30
CARDS = [torch.device("cuda", index) for index in range(4)]


def plan(name: str, free: dict[torch.device, int], quantization: str = "none") -> tuple[Spread, int]:
    """Where a released model goes in bfloat16, and what all of its weights take."""
    is_moe = name.startswith("moe")
    parts = moe.parts_of(name, moe.VARIANTS[name][0]) if is_moe else minigpt.parts_of(name, minigpt.VARIANTS[name][0])
    empty = empty_module(parts["language_model"], torch.bfloat16)
    assert isinstance(empty, PreTrainedModel)
    found = spread(parts, empty, free, dtype=torch.bfloat16, quantization=quantization)
    return found, weight_bytes(parts.values(), torch.bfloat16, quantization)


@pytest.mark.parametrize(
    ("name", "gibibytes"),
    [
        ("minigpt4_vicuna0_13b", 23),
        ("mgm_13b", 23),
        ("mgm_13b_hd", 23),
        ("mgm_34b", 47),
        ("mgm_34b_hd", 47),
        ("mgm_8x7b", 79),
        ("mgm_8x7b_hd", 79),
        ("moe_llava_openchat", 23),
        ("tinygptv_stage4", 5),
        ("mgm_2b", 5),
    ],
)
def test_large_models_fit_on_two_cards(name: str, gibibytes: int) -> None:
    free = {device: gibibytes * GIB for device in CARDS[:2]}
    found, total = plan(name, free)
    assert sum(found.weights.values()) == total
    assert all(found.layers.values())
    left = [(free[device] - found.weights[device]) / count for device, count in found.layers.items()]
    assert 0 < max(left) < 1.3 * min(left)  # for each layer's keys and values there is about as much on both
    names = [found.device_map[name] for name in found.device_map if ".layers." in name]
    assert [device for device, _ in groupby(names)] == CARDS[:2]
    assert {device for name, device in found.device_map.items() if ".layers." not in name} == {CARDS[0]}


def test_the_first_card_has_fewer_layers_as_it_has_all_else() -> None:
    found, _ = plan("tinygptv_stage4", dict.fromkeys(CARDS[:2], 5 * GIB))
    assert found.layers[CARDS[0]] < found.layers[CARDS[1]]


def test_cards_of_different_sizes_and_more_than_two() -> None:
    found, total = plan("mgm_13b", dict(zip(CARDS, (20 * GIB, 5 * GIB, 5 * GIB, 10 * GIB), strict=True)))
    assert sum(found.weights.values()) == total
    assert found.weights[CARDS[1]] < found.weights[CARDS[3]]


def test_with_4_bits_the_real_sizes_count() -> None:
    free = dict.fromkeys(CARDS[:2], 13 * GIB)
    found, total = plan("mgm_34b", free, "4bit")
    assert sum(found.weights.values()) == total
    assert max(found.weights.values()) < 0.6 * total


@pytest.mark.parametrize("gibibytes", [2, 12])
def test_what_does_not_fit_is_refused_in_one_line(gibibytes: int) -> None:
    """Too little on both together, or on the first for what is not spread."""
    with pytest.raises(
        NotEnoughMemory, match=r"do not fit into what is free: .* GiB on cuda:0 and .*on cuda:1"
    ) as error:
        plan("mgm_13b", dict.fromkeys(CARDS[:2], gibibytes * GIB))
    assert "\n" not in str(error.value)


def test_the_fullest_card_decides_about_keys_and_values() -> None:
    """Each layer has pages for as many tokens."""
    layers = {CARDS[0]: 10, CARDS[1]: 30}
    assert most_for_all(layers, {CARDS[0]: 4 * GIB, CARDS[1]: 6 * GIB}) == 8 * GIB
    found = Spread(device_map={}, weights={}, layers=layers)
    assert [found.share(device, 8 * GIB) for device in layers] == [2 * GIB, 6 * GIB]


def test_13b_on_two_cards_of_24_gigabytes_leaves_room_for_chats() -> None:
    free = dict.fromkeys(CARDS[:2], 23 * GIB)
    found, _ = plan("mgm_13b", free)
    left = most_for_all(found.layers, {device: free[device] - found.weights[device] for device in free})
    config = minigpt.parts_of("mgm_13b", minigpt.VARIANTS["mgm_13b"][0])["language_model"].config
    room = plan_keys_and_values(config, torch.bfloat16, Serving(), context_tokens=2000, device=CARDS[0], free=left)
    assert room.num_bytes > 2 * room.one_chat


def test_a_card_that_is_full_gets_no_layers() -> None:
    """The model goes on the others, as if that one were not there."""
    found, total = plan("tinygptv_stage4", dict(zip(CARDS[:3], (5 * GIB, 0, 5 * GIB), strict=True)))
    assert (found.layers[CARDS[1]], found.weights[CARDS[1]]) == (0, 0)
    assert sum(found.weights.values()) == total
