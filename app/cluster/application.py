"""The Serve application: a deployment for each model, and the door before them.

`python -m app.cluster` runs it; `serve deploy FILE` too, with a file as `deploy/serve.yaml`, whose `args` are the
fields of `ClusterSettings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app.cluster.ingress import Ingress
from app.cluster.replica import Replica
from app.library.engine_loader import LoadingOptions
from app.library.offers import describe
from models.command_line import ROOT
from models.errors import ConfigError

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
NAME = "minivlm"
DOOR = "door"  # the deployment that is no model
# Of the replicas that are too many, gone at a time. Else they go all at once, and those that are left read their
# conversations anew, for which they are too few (docs/decisions/scaling.md).
DOWN_FACTOR = 0.2
DRAINING_SECONDS = 120.0  # that a replica which is to go may take for its last answers


class ClusterSettings(BaseModel):
    """What is served, and by how many.

    `configs`: YAML files, as for `--cfg-path`; `replicas` of each (1), or as many as are needed from `min_replicas` (1;
    0: none while nobody asks) to `max_replicas`. `gpus`, `cpus`: of one replica; several GPUs share a model that is
    larger than one. `at_once`: questions that a replica takes (those it can't answer at once wait, served by turns);
    `waiting` more for all of a model wait before the replicas, and further ones get 429. Between the two numbers
    of replicas each is to have `target` questions, half of the chats that a GPU's engine answers at once; more come
    after `up_delay` seconds of more, fewer after `down_delay` of fewer. `doors`: processes that take the requests.
    """

    model_config = ConfigDict(extra="forbid")

    configs: list[Path] = Field(min_length=1)
    replicas: int | None = Field(None, ge=1)
    min_replicas: int | None = Field(None, ge=0)
    max_replicas: int | None = Field(None, ge=1)
    gpus: float = Field(0, ge=0)
    cpus: float = Field(1, gt=0)
    at_once: int = Field(64, ge=1)
    waiting: int = Field(256, ge=-1)
    target: float = Field(4, gt=0)
    up_delay: float = Field(30, ge=0)
    down_delay: float = Field(600, ge=0)
    doors: int = Field(1, ge=1)
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None
    copies_weights: bool = False
    overrides: tuple[str, ...] = ()
    api_keys: list[str] = []
    allow_origins: list[str] = []

    @field_validator("configs")
    @classmethod
    def _found(cls, paths: list[Path]) -> list[Path]:
        """A relative path is also one from the program's folder: Ray's processes start wherever they start."""
        return [ROOT / path if not path.is_file() and (ROOT / path).is_file() else path for path in paths]

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        least, most = self.min_replicas, self.max_replicas
        if least is not None and most is None:
            raise ConfigError(f"min-replicas {least} needs max-replicas, which says how many there may be.")
        if self.replicas is not None and most is not None:
            raise ConfigError(
                f"replicas {self.replicas} is for a number that stays, min-replicas and max-replicas are for one that "
                "changes; give one of the two."
            )
        if least is not None and most is not None and least > most:
            raise ConfigError(f"min-replicas {least} is more than max-replicas {most}.")
        if (self.device or "").startswith("cuda") and not self.gpus:
            raise ConfigError(f"device {self.device} needs gpus: a replica sees no others than those it is given.")
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ConfigError(
                f"gpus {self.gpus:g}: a replica has a part of one GPU (0 to 1), or a whole number of them."
            )
        return self

    @property
    def first_replicas(self) -> int:
        """Of each model, with which it begins."""
        return self.replicas or max(1, self._least)

    @property
    def _least(self) -> int:
        return 1 if self.min_replicas is None else self.min_replicas

    @property
    def count(self) -> dict[str, Any]:
        """How many, as Ray Serve is told."""
        if self.max_replicas is None:
            return {"num_replicas": self.first_replicas}
        return {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=self._least,
                max_replicas=self.max_replicas,
                initial_replicas=self.first_replicas,
                target_ongoing_requests=self.target,
                upscale_delay_s=self.up_delay,
                downscale_delay_s=self.down_delay,
                downscaling_factor=DOWN_FACTOR,
            )
        }


def build(args: dict[str, Any]) -> serve.Application:
    """The application of these settings. Raises pydantic's ValidationError or ConfigError where they can't be."""
    return application_of(ClusterSettings(**args))


def application_of(settings: ClusterSettings) -> serve.Application:
    """As `build`, of settings that are known to be some."""
    handles = {}
    for path in settings.configs:
        if path.stem in handles:
            raise ConfigError(f"two configurations are called {path.stem}; a model's name is its file's.")
        handles[path.stem] = _model(path, settings)
    door = serve.deployment(serve.ingress()(Ingress)).options(
        name=DOOR,
        num_replicas=settings.doors,
        max_ongoing_requests=4096,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=DRAINING_SECONDS,
    )
    return door.bind(handles, settings.api_keys, settings.allow_origins)


def _model(path: Path, settings: ClusterSettings) -> serve.Application:
    if describe(path, path.stem, settings.overrides).server:
        raise ConfigError(f"{path} is a server elsewhere, of which there are no replicas here; give it to demo.py.")
    devices = [f"cuda:{number}" for number in range(int(settings.gpus))]
    options = LoadingOptions(
        device=settings.device or (",".join(devices) if len(devices) > 1 else None),
        dtype=settings.dtype,
        quantization=settings.quantization,
        overrides=settings.overrides,
        copies_weights=settings.copies_weights,
    )
    deployment = serve.deployment(Replica).options(
        name=path.stem,
        max_ongoing_requests=settings.at_once,
        max_queued_requests=settings.waiting,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        graceful_shutdown_timeout_s=DRAINING_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        **settings.count,
    )
    return deployment.bind(str(path.resolve()), options)
