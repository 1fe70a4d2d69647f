"""What transformers keeps to itself and the program relies on, engine/batching above all, is still there.

An upgrade that renames or drops something fails here, a line for each name. This file imports nothing of engine/, which
such an upgrade may break.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, MixtralConfig, PreTrainedModel

from tests.paths import ROOT

LIBRARY = "transformers.generation.continuous_batching"
FOLDERS = ("engine", "models", "training", "benchmarks")

# By owner: first what is private, then what is public but undocumented.
NAMES = {
    "manager": (
        "_create_batch_processor", "_generation_loop_body", "_generation_thread", "_handle_critical_error",
        "_fail_all_remaining_requests", "_original_attn_impl", "_run_generation_loop",
        "add_request", "background_thread_status", "batch_processor", "cancel_queue", "cancel_request",
        "continuous_batching_config", "input_queue", "is_running", "logit_processor", "model", "output_router", "start",
        "stop", "warmup",
    ),
    "thread status": ("DONT_STOP", "clear", "is_pause_requested", "local_status", "mark_as_stopped"),
    "processor": (
        "cache", "inputs_and_outputs", "max_batch_tokens", "model_device", "model_runner", "output_router", "scheduler",
    ),
    "scheduler": (
        "_process_candidates", "_try_to_meet_safety_margin",
        "active_requests", "block_new_requests", "clear_cancelled_requests", "finish_request",
        "set_request_cancellation", "waiting_requests",
    ),
    "cache": (
        "cache_allocators", "can_store_request_tokens", "config", "max_batch_tokens", "max_blocks_per_request",
        "max_tokens_read", "pool", "reset", "search_prefix_match", "update", "use_prefix_sharing",
    ),
    "allocator": (
        "_kv_token_views",
        "block_table", "blocks_per_sector", "get_read_indices", "get_write_indices", "head_dim", "index",
        "layer_indices", "ledger", "mark_complete_blocks", "num_blocks", "num_key_value_heads", "tokens_per_page",
    ),
    "ledger": ("block_to_hash", "cached_blocks", "evict_cached_blocks", "hash_to_block"),
    "pool": ("count_free_blocks", "num_free_sectors"),
    "inputs": (
        "compute_stream", "get_cb_kwargs", "get_model_kwargs", "prepare_batch_tensors", "prepare_batch_update",
        "requests_in_batch", "retrieve_device_outputs",
    ),
    "runner": (
        "_forward_process_and_sample", "_sample",
        "cache", "cb_config", "compute_batch", "do_sample", "inputs_and_outputs", "logit_processor", "maybe_pad_inputs",
        "pad_inputs", "return_logprobs", "run_one_warmup", "supports_logits_to_keep",
    ),
    "logits processors": ("do_processing", "tensors_required"),
    "router": ("deliver", "deliver_batch"),
    "request": (
        "_true_initial_tokens",
        "generated_len", "generated_tokens", "initial_tokens", "position_offset", "request_id", "status",
        "to_generation_output", "tokens_to_process", "update_and_check_completion",
    ),
    "output": ("error", "generated_tokens", "is_finished", "request_id"),
    "model config": ("_attn_implementation",),
    "mixtral config": ("_experts_implementation",),
    "model class": (
        "_can_set_experts_implementation", "_keep_in_fp32_modules_strict", "_skip_keys_device_placement",
    ),
    "trainer": (
        "_get_grad_norm", "_load_rng_state", "_maybe_log_save_evaluate", "_save_checkpoint",
        "_save_optimizer_and_scheduler", "_save_rng_state",
    ),
    "training arguments": ("_n_gpu",),
    "schedules": ("_get_cosine_schedule_with_warmup_lr_lambda",),
    "module": ("_buffers", "_forward_hooks", "_forward_pre_hooks"),
    "tensor class": ("_make_wrapper_subclass",),
    "storage": ("_cdata",),
    "bitsandbytes on Apple GPUs": ("_kernel_load_failed",),
    "torch": ("_C", "_int_mm"),
    "torch.ops.aten": ("_weight_int8pack_mm",),
    "torch.cpu": ("_is_amx_tile_supported", "_is_avx512_bf16_supported", "_is_vnni_supported"),
    "torch.ops.mkldnn": (
        "_is_mkldnn_bf16_supported", "_linear_pointwise", "_nbytes", "_reorder_linear_weight",
        "data_ptr",
    ),
}  # fmt: skip

# Methods that are replaced or overridden, by the arguments they are called with.
ARGUMENTS = {
    ("cache", "update"): ("key_states", "value_states", "layer_idx", "kwargs"),
    ("cache", "search_prefix_match"): ("request_id", "prompt_ids"),
    ("inputs", "get_model_kwargs"): ("use_padding",),
    ("inputs", "prepare_batch_update"): (),
    ("inputs", "retrieve_device_outputs"): (),
    ("manager", "_generation_loop_body"): ("batch_processor", "bootstrapping"),
    ("manager", "_handle_critical_error"): ("error", "batch_processor"),
    ("runner", "compute_batch"): ("model", "batch_data"),
    ("runner", "maybe_pad_inputs"): ("num_q_tokens", "max_kv_read", "use_decode_fast_path"),
    ("router", "deliver"): ("output",),
    ("router", "deliver_batch"): ("outputs",),
}

STEP_ARGUMENTS = (
    "attention_mask", "cu_seq_lens_k", "cu_seq_lens_q", "input_ids", "is_causal", "logits_indices",
    "logits_processor_args", "read_index", "write_index",
)  # fmt: skip


@pytest.fixture(scope="module")
def owners() -> dict[str, Any]:
    """The library's own objects, as they are before the engine changes anything."""
    api, requests = import_module(f"{LIBRARY}.continuous_api"), import_module(f"{LIBRARY}.requests")
    config = LlamaConfig(
        vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1,
    )  # fmt: skip
    sizes = import_module("transformers.generation.configuration_utils").ContinuousBatchingConfig(
        page_size=8, num_blocks=8, max_batch_tokens=8, max_requests_per_batch=2, auto_switch_to_flash=False
    )
    manager = api.ContinuousBatchingManager(LlamaForCausalLM(config), GenerationConfig(eos_token_id=-1), sizes)
    with torch.no_grad():
        manager.warmup()
    processor = manager.batch_processor
    (allocator,) = processor.cache.cache_allocators.values()
    return {
        "manager": manager,
        "thread status": manager.background_thread_status,
        "processor": processor,
        "scheduler": processor.scheduler,
        "cache": processor.cache,
        "allocator": allocator,
        "ledger": allocator.ledger,
        "pool": processor.cache.pool,
        "inputs": processor.inputs_and_outputs,
        "runner": processor.model_runner,
        "logits processors": manager.logit_processor,
        "router": manager.output_router,
        "request": requests.RequestState("name", initial_tokens=[1]),
        "output": requests.GenerationOutput("name"),
        "model config": config,
        "mixtral config": MixtralConfig(),
        "model class": PreTrainedModel,
        "trainer": transformers.Trainer,
        "training arguments": import_module("transformers.training_args").TrainingArguments("."),
        "schedules": import_module("transformers.optimization"),
        "module": torch.nn.Identity(),
        "tensor class": torch.Tensor,
        "storage": torch.zeros(1).untyped_storage(),
        "bitsandbytes on Apple GPUs": import_module("bitsandbytes.backends.mps.ops"),
        "torch": torch,
        "torch.cpu": torch.cpu,
        "torch.ops.aten": torch.ops.aten,
        "torch.ops.mkldnn": torch.ops.mkldnn,
    }


def where(name: str) -> str:
    """The files that use a name."""
    found = (path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py")))
    return ", ".join(path.relative_to(ROOT).as_posix() for path in found if name in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, names in NAMES.items() for name in names])
def test_the_name_exists(owner: str, name: str, owners: dict[str, Any]) -> None:
    assert hasattr(owners[owner], name), f"transformers {transformers.__version__}: {owner}.{name} of {where(name)}"


@pytest.mark.parametrize(("owner", "name"), ARGUMENTS)
def test_the_method_takes_these_arguments(owner: str, name: str, owners: dict[str, Any]) -> None:
    found = tuple(signature(getattr(owners[owner], name)).parameters)
    assert found == ARGUMENTS[owner, name], f"transformers {transformers.__version__}: {owner}.{name} of {where(name)}"


@pytest.mark.parametrize("name", STEP_ARGUMENTS)
def test_a_step_has_this_argument(name: str) -> None:
    arguments = import_module(f"{LIBRARY}.input_outputs").PagedAttentionArgs.__annotations__
    assert name in arguments, f"transformers {transformers.__version__}: {name} of {where(name)}"


def batching_files() -> list[Path]:
    return sorted((ROOT / "engine" / "batching").glob("*.py"))


def imports() -> Iterator[tuple[str, str]]:
    """Modules of the library and what is imported from them."""
    for path in batching_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARY):
                yield from ((str(node.module), alias.name) for alias in node.names)


@pytest.mark.parametrize(("module", "name"), sorted(set(imports())))
def test_what_is_imported_exists(module: str, name: str) -> None:
    assert hasattr(import_module(module), name), f"transformers {transformers.__version__}: {module}.{name}"


def private_names() -> set[str]:
    """Private attributes that the program uses and does not define, also those named in a `getattr`."""
    defined, used = set(), set()
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute):
                owner = node.value
                if isinstance(owner, ast.Name) and owner.id == "self" and isinstance(node.ctx, ast.Store):
                    defined.add(node.attr)
                elif isinstance(owner, ast.Call) and isinstance(owner.func, ast.Name) and owner.func.id == "super":
                    used.add(f"super().{node.attr}")
                else:
                    used.add(node.attr)
            elif (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("getattr", "hasattr")
            ):
                used |= {str(one.value) for one in node.args[1:2] if isinstance(one, ast.Constant)}
            elif isinstance(node, ast.ImportFrom):
                used |= {alias.name for alias in node.names}
    of_bases = {name.removeprefix("super().") for name in used if name.startswith("super().")}
    return {name for name in (used - defined) | of_bases if name.startswith("_") and not name.startswith("__")}


def test_every_private_name_is_listed() -> None:
    of_our_own_bases = {"_put_back"}
    assert private_names() - of_our_own_bases - {name for names in NAMES.values() for name in names} == set()
