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
from app.cluster.replica import Loading, Replica
from models.errors import ConfigError

ROUTER = "ray.serve.experimental.consistent_hash_router:ConsistentHashRouter"
DRAINING_SECONDS = 120.0  # that a replica which is to go may take for its last answers


class ClusterSettings(BaseModel):
    """What is served, and by how many.

    `configs`: YAML files, as for `--cfg-path`; `replicas` of each, or as many as are needed from `min_replicas` (0:
    none while nobody asks) to `max_replicas`. `gpus`, `cpus`: of one replica; several GPUs share a model that is larger
    than one. `at_once`: questions that a replica takes (those it can't answer at once wait in it, served by turns);
    `waiting` more for all of a model wait before the replicas, and further ones get 429.
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
    device: str = "auto"
    dtype: str = "auto"
    quantization: str | None = None
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
        name="door", max_ongoing_requests=4096, ray_actor_options={"num_cpus": 0}
    )
    return door.bind(handles, settings.api_keys, settings.allow_origins)


def _model(path: Path, settings: ClusterSettings) -> serve.Application:
    devices = [f"cuda:{number}" for number in range(int(settings.gpus))]
    loading = Loading(
        config=str(path.resolve()),
        device=",".join(devices) if len(devices) > 1 and settings.device == "auto" else settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        overrides=settings.overrides,
    )
    count: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        least = settings.replicas if settings.min_replicas is None else settings.min_replicas
        count = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=least,
                max_replicas=settings.max_replicas,
                initial_replicas=max(least, 1),
                target_ongoing_requests=settings.at_once / 2,
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
    return deployment.bind(loading)
