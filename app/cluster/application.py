"""The Serve application: a deployment for each model, and the door before them.

`python -m app.cluster` runs it; `serve deploy FILE` too, with a file as `deploy/serve.yaml`, whose `args` are the
fields of `ClusterSettings`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig

from app.cluster.ingress import Ingress
from app.cluster.replica import Replica
from app.library.engine_loader import LoadingOptions
from app.library.offers import describe
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

    `configs`: YAML files, as for `--cfg-path`; `replicas` of each, or as many as are needed from `min_replicas` (0:
    none while nobody asks) to `max_replicas`. `gpus`, `cpus`: of one replica; several GPUs share a model that is larger
    than one. `at_once`: questions that a replica takes (those it can't answer at once wait in it, served by turns);
    `waiting` more for all of a model wait before the replicas, and further ones get 429. Between the two numbers
    of replicas each is to have `target` questions, half of the chats that a GPU's engine answers at once; more come
    after `up_delay` seconds of more, fewer after `down_delay` of fewer. `doors`: processes that take the requests.
    """

    model_config = ConfigDict(extra="forbid")

    configs: list[Path] = Field(min_length=1)
    replicas: int = Field(1, ge=1)
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


def build(args: dict[str, Any]) -> serve.Application:
    """The application of these settings. Raises pydantic's ValidationError or ConfigError where they can't be."""
    settings = ClusterSettings(**args)
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
    count: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        least = settings.replicas if settings.min_replicas is None else settings.min_replicas
        count = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=least,
                max_replicas=settings.max_replicas,
                initial_replicas=max(least, 1),
                target_ongoing_requests=settings.target,
                upscale_delay_s=settings.up_delay,
                downscale_delay_s=settings.down_delay,
                downscaling_factor=DOWN_FACTOR,
            )
        }
    deployment = serve.deployment(Replica).options(
        name=path.stem,
        max_ongoing_requests=settings.at_once,
        max_queued_requests=settings.waiting,
        ray_actor_options={"num_cpus": settings.cpus, "num_gpus": settings.gpus},
        graceful_shutdown_timeout_s=DRAINING_SECONDS,
        request_router_config=RequestRouterConfig(request_router_class=ROUTER),
        **count,
    )
    return deployment.bind(str(path.resolve()), options)
