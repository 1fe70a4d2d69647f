"""A cluster from its start to its end: what `python -m app.cluster` and the tests run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve.config import HTTPOptions

from app.cluster.application import NAME, build
from app.launch import check_config
from models.command_line import ROOT
from models.errors import ConfigError, ServerFailed

# Of ray.init: its other processes find this program, and neither they nor Ray itself print here what they do.
PATHS = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
OURS: dict[str, Any] = {
    "runtime_env": {"env_vars": {"PYTHONPATH": PATHS}},
    "log_to_driver": False,
    "logging_level": logging.WARNING,
}


class Cluster:
    """The application of `settings` (see ClusterSettings), served on `host` and `port` while the block runs.

    A cluster that was running before (RAY_ADDRESS) goes on afterwards. Raises ConfigError, and ServerFailed where a
    model does not come up.
    """

    def __init__(self, settings: dict[str, Any], *, host: str = "127.0.0.1", port: int = 8000) -> None:
        self.url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        self.names = [Path(path).stem for path in settings["configs"]]
        self._options = HTTPOptions(host=host, port=port)
        for path in settings["configs"]:
            check_config(Path(path), settings.get("overrides", ()))
        try:
            self._application = build(settings)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{where.replace('_', '-')}: {first['msg'].lower()}.") from error

    def __enter__(self) -> Cluster:
        ray.init(address=os.environ.get("RAY_ADDRESS"), include_dashboard=False, **OURS)
        serve.start(http_options=self._options)
        try:
            serve.run(self._application, name=NAME, route_prefix="/")
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            self.__exit__()
            raise ServerFailed(f"The models did not come up: {reason}") from error
        return self

    def __exit__(self, *_: object) -> None:
        serve.delete(NAME)
        if "RAY_ADDRESS" not in os.environ:
            serve.shutdown()
            ray.shutdown()
