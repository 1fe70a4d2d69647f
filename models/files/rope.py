"""How positions are turned, where a config.json says it in two ways: transformers 5 writes `rope_parameters`, earlier
programs `rope_theta`, `rope_scaling` and a share of each head. transformers takes one of them without a word.
"""

from __future__ import annotations

from typing import Any

from models.errors import CheckpointMismatch

# What rope_parameters calls it -> what older configurations do, Qwen-1's and StableLM's own among them.
_OLDER_NAMES = {
    "rope_theta": ("rope_theta", "rotary_emb_base"),
    "partial_rotary_factor": ("partial_rotary_factor", "rope_pct", "rotary_pct"),
}


def one_rope(values: dict[str, Any], *, where: str) -> dict[str, Any]:
    """The values of a config.json, which say each thing about positions once.

    Raises CheckpointMismatch where two of them differ, or where `rope_parameters` are those of kinds of layers.
    """
    stated = values.get("rope_parameters")
    if not isinstance(stated, dict) or not stated:
        return values
    if kinds := [key for key, value in stated.items() if isinstance(value, dict)]:
        raise CheckpointMismatch(
            f"{where}: rope_parameters says something for each kind of layer ({kinds[0]}, …), as no model of these "
            "families has it; get config.json again from where the model was released."
        )
    older = [(new, old, values[old]) for new, names in _OLDER_NAMES.items() for old in names if old in values]
    scaling = values.get("rope_scaling")
    scaling = scaling if isinstance(scaling, dict) else {}
    scaling = {{"type": "rope_type"}.get(key, key): value for key, value in scaling.items()}
    older += [(key, f"rope_scaling.{key}", value) for key, value in scaling.items()]
    for key, name, value in older:
        found = stated.get(key, "default" if key == "rope_type" else None)
        if None not in (found, value) and found != value:
            raise CheckpointMismatch(
                f"{where}: {name} is {value!r}, but rope_parameters has {key} {found!r}; take away the one that the "
                "model was not trained with."
            )
    if not scaling:
        return values
    # transformers would take rope_scaling for all there is.
    return {key: value for key, value in values.items() if key != "rope_scaling"} | {
        "rope_parameters": {**scaling, **stated}
    }
