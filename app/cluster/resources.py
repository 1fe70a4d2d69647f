"""Whether the machines have what the replicas need, before anything waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from app.cluster.application import ClusterSettings
from models.errors import ConfigError

Resources = Mapping[str, float]  # "CPU" and "GPU" of a machine, as Ray counts them


def this_machine() -> Resources:
    """Its processors and GPUs, as a Ray that is started here will find them."""
    import torch

    return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}


def check_resources(settings: ClusterSettings, machines: Iterable[Resources]) -> None:
    """Raise ConfigError where the first replicas of all models have no place on these machines.

    Those that may come later are not counted: machines may come with them.
    """
    machines = list(machines)
    needed = settings.first_replicas * len(settings.configs)
    for name, option, each, places in (
        ("CPU", "cpus", settings.cpus, _places_by_cpu),
        ("GPU", "gpus", settings.gpus, _places_by_gpu),
    ):
        if sum(places(machine, each) for machine in machines) < needed:
            found = sum(machine.get(name, 0) for machine in machines)
            where = f"{len(machines)} machines have" if len(machines) > 1 else "the machine has"
            raise ConfigError(
                f"There is no place for {needed} x --{option} {each:g}, of each replica: {where} {found:g} {name}s. "
                f"Give fewer replicas or a smaller --{option}."
            )
    both = (min(_places_by_cpu(one, settings.cpus), _places_by_gpu(one, settings.gpus)) for one in machines)
    if sum(both) < needed:
        raise ConfigError(
            f"There is no place for {needed} x --cpus {settings.cpus:g} and --gpus {settings.gpus:g}, of each replica: "
            "there is enough of both, but not on the same machines. Give less of one."
        )


def _places_by_cpu(machine: Resources, each: float) -> float:
    return int(machine.get("CPU", 0) / each + 1e-9)


def _places_by_gpu(machine: Resources, each: float) -> float:
    """Of parts of a GPU as many as fit on each."""
    if not each:
        return float("inf")
    found = int(machine.get("GPU", 0))
    return found * int(1 / each + 1e-9) if each < 1 else found // int(each)
