"""Loading for the library: a configuration's model in an engine of its own, what that takes, and letting go of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil
import torch

from app.extras.extended_model import with_extras
from app.garbage import collect
from app.library.entry import Loaded, Loader, Need
from app.library.loaded_elsewhere import LoadedElsewhere
from app.library.offers import Offer
from engine.chat_engine import ChatEngine
from engine.stats import EngineStats
from models.config import load_config
from models.devices import free_on, names_of, pick_devices, pick_dtype
from models.errors import ConfigError
from models.family_config import FamilyConfig
from models.files.mapped import FileWatch, copy_weights, mapped_bytes, mapped_files
from models.files.released import ReleasedFiles
from models.loader import build_model, num_weights, parts_of
from models.memory.sizes import HEADROOM, weight_bytes
from models.prompt import PromptFormat
from models.tensors.freed import give_back_freed_memory
from models.vision_language_model import VisionLanguageModel

if TYPE_CHECKING:
    from app.spaces.zero_gpu import ZeroGpuEngine


@dataclass(frozen=True, kw_only=True)
class LoadingOptions:
    """What the command line says for all models; None leaves the YAML's word."""

    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    overrides: Sequence[str] = ()
    copies_weights: bool = False


class EngineLoader(Loader):
    """Loads released files; `report` is given the lines that loading has to say."""

    def __init__(self, options: LoadingOptions, *, report: Callable[[str], None]) -> None:
        self._options = options
        self._report = report

    def needed(self, offer: Offer, loaded: Sequence[Loaded]) -> Need:
        """See Loader. The number of bytes is the one that loading will check.

        If the configuration leaves the quantization open ("auto"), it is that of 4 bits where the weights would not fit
        otherwise, even with all other models unloaded. Weights that are mapped from files count as used memory.
        """
        if offer.server:
            return Need(num_bytes=0, free=0, given_back=[0] * len(loaded), device=offer.server)
        config = self._config(offer)
        devices, files = pick_devices(config.device), ReleasedFiles(config)
        parts = parts_of(config, files)
        dtype, _ = pick_dtype(config.dtype, devices[0], num_weights(parts.values()))
        here = names_of(devices)
        engines = [one for one in loaded if isinstance(one, LoadedEngine)]
        given_back = [
            one.num_bytes if isinstance(one, LoadedEngine) and one.model.info.device == here else 0 for one in loaded
        ]
        free = free_on(devices) - sum(one.num_mapped for one in engines if one.model.info.device == here)
        kinds = ("none", "4bit") if config.quantization == "auto" else (config.quantization,)
        sizes = [int(weight_bytes(parts.values(), dtype, kind) * HEADROOM) for kind in kinds]
        num_bytes = next((count for count in sizes if count <= free + sum(given_back)), sizes[-1])
        return Need(num_bytes=num_bytes, free=max(0, free), given_back=given_back, device=here)

    def load(self, offer: Offer, progress: Callable[[int, int], None]) -> Loaded:
        """See Loader."""
        if offer.server:
            return LoadedElsewhere(offer)
        model = build_model(self._config(offer), report=self._report, progress=progress)
        if self._options.copies_weights:
            copy_weights(model)
        weights = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        running = ExitStack()
        engine = engine_for(model)
        running.enter_context(engine)
        files = mapped_files(model)  # now, as the engine lays some weights out anew in memory
        mapped = mapped_bytes(model)
        return LoadedEngine(
            engine, running, FileWatch(files), num_bytes=weights, num_mapped=mapped, prompt_format=model.prompt_format
        )

    def used_bytes(self) -> int:
        """Of the GPU where there is one, else of this process."""
        device = pick_devices(self._options.device or "auto")[0]
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            return total - free
        return int(psutil.Process().memory_info().rss)

    def _config(self, offer: Offer) -> FamilyConfig:
        options = self._options
        config = load_config(offer.path, [*options.overrides, *offer.overrides])
        return replace(
            config,
            device=options.device or config.device,
            dtype=options.dtype or config.dtype,
            quantization=options.quantization or config.quantization,
        )


class LoadedEngine(Loaded):
    """A model with its engine. `num_bytes` are those of its weights, `num_mapped` of them are pages of its files."""

    def __init__(
        self,
        engine: ChatEngine | ZeroGpuEngine,
        running: ExitStack,
        watch: FileWatch,
        *,
        num_bytes: int,
        num_mapped: int,
        prompt_format: PromptFormat,
    ) -> None:
        self._engine: ChatEngine | ZeroGpuEngine | None = engine
        self._running = running
        self._watch = watch
        self.model = with_extras(engine)
        self.num_bytes, self.num_mapped = num_bytes, num_mapped
        self.prompt_format = prompt_format
        self.created = int(time.time())

    def stats(self) -> EngineStats:
        """See Loaded."""
        assert self._engine is not None
        return self._engine.stats()

    def changed(self) -> str:
        """See Loaded."""
        file = self._watch.changed()
        return "" if file is None else f"{file} was changed while the model is used from it."

    def close(self) -> None:
        """See Loaded."""
        engine, self._engine = self._engine, None
        if engine is not None:
            self._running.close()
            del engine, self.model
            collect()  # a model's modules refer to each other
            give_back_freed_memory()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def engine_for(model: VisionLanguageModel) -> ChatEngine | ZeroGpuEngine:
    """What answers: an engine, or on a ZeroGPU Space one that is forked for each answer."""
    if os.environ.get("SPACES_ZERO_GPU", "").lower() not in ("1", "t", "true"):
        return ChatEngine(model)
    spaces: Any = sys.modules.get("spaces")  # it must be imported before torch, which its app file does
    if spaces is None:
        raise ConfigError("On ZeroGPU the Space's app file must import spaces first; make space writes such a one.")
    from app.spaces.zero_gpu import ZeroGpuEngine

    return ZeroGpuEngine(model, spaces.GPU)
