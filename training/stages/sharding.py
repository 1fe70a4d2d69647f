"""Training with the parameters spread over devices: torch's FSDP 2, and what DeepSpeed's ZeRO shares with it.

Checkpoints stay those of every other run: one file with what learns, whole, written by the main process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from accelerate.utils import parse_flag_from_env  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import Trainer

from models.errors import ConfigError
from training.recipe import Recipe


def uses_fsdp(recipe: Recipe) -> bool:
    """Whether the recipe, or the configuration of `accelerate launch`, asks for FSDP."""
    return recipe.fsdp or bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def is_sharded(recipe: Recipe) -> bool:
    """Whether devices hold parts of the model: then all of them must run the same modules in every step."""
    return uses_fsdp(recipe) or recipe.deepspeed is not None or bool(parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"))


def has_parts_only(model: nn.Module) -> bool:
    """Whether this process lacks parameters: FSDP's are DTensors, those of ZeRO 3 have an id of DeepSpeed's."""
    return any(isinstance(parameter, DTensor) or hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def parts_callable(model: nn.Module) -> Iterator[None]:
    """Within the block all processes together can call modules inside of a model that is spread over them.

    Layers are gathered when they are called, one after the other; FSDP gathers what belongs to no layer (embeddings,
    the connector) only for a call of the whole model. ZeRO 3 gathers everything module by module.
    """
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def check_processes(recipe: Recipe, num_processes: int) -> None:
    """Raises ConfigError where FSDP would have nothing to spread over."""
    if uses_fsdp(recipe) and num_processes == 1:
        raise ConfigError(
            f"{recipe.source}: fsdp spreads the parameters over several GPUs, but this is one process; start it with "
            "torchrun or accelerate launch, or leave fsdp out."
        )


def check_fsdp(recipe: Recipe, trainer: Trainer) -> None:
    """Whole checkpoints, whatever accelerate's configuration says. Raises ConfigError for FSDP 1 and on CPUs."""
    if not trainer.is_fsdp_enabled:
        if uses_fsdp(recipe):
            raise ConfigError(f"{recipe.source}: accelerate has FSDP on GPUs only; use --options fsdp=false here.")
        return
    plugin = trainer.accelerator.state.fsdp_plugin
    if plugin.fsdp_version != 2:
        raise ConfigError("FSDP 1 is not supported; set fsdp_version: 2 in accelerate's configuration.")
    plugin.state_dict_config = plugin.optim_state_dict_config = None  # of another type
    plugin.set_state_dict_type("FULL_STATE_DICT")


def gathered_state(model: nn.Module) -> dict[str, Tensor]:
    """What learns of an FSDP model, whole and on the CPU, in the main process; nothing in the others. All call it."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    state: dict[str, Tensor] = get_model_state_dict(model, options=options)  # type: ignore[assignment]  # of parameters
    return state


def spread_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put whole tensors, which every process has read, into an FSDP model."""
    set_model_state_dict(model, dict(state), options=StateDictOptions(full_state_dict=True, strict=False))
