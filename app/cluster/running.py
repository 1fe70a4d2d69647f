"""A cluster from its start to its end: what `python -m app.cluster` and the tests run."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.client import ServeControllerClient
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client, _set_global_client
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, DeploymentStatus

from app.cluster.application import NAME, ClusterSettings, application_of
from app.cluster.resources import check_resources, this_machine
from app.launch import check_config
from app.library.offers import describe
from app.server import free_port
from models import errors
from models.command_line import ROOT
from models.errors import CheckpointMissing, ConfigError, ServerFailed

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing tells another host how this program is used
# Of ray.init: its other processes find this program, and neither they nor Ray itself print here what they do.
PATHS = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
OURS: dict[str, Any] = {
    "runtime_env": {"env_vars": {"PYTHONPATH": PATHS}},
    "log_to_driver": False,
    "logging_level": logging.WARNING,
}
for library in ("ray.data", "ray.serve", "ray._private.authentication"):
    logging.getLogger(library).setLevel(logging.ERROR)
LOOK_SECONDS = 0.2
ADDRESS_SECONDS = 10.0
FAILED = (DeploymentStatus.UNHEALTHY, DeploymentStatus.DEPLOY_FAILED)


class Cluster:
    """The application of `settings` (see ClusterSettings), served on `host` and `port` while the block runs.

    A cluster that was running before (RAY_ADDRESS) goes on afterwards. Raises ConfigError, CheckpointMissing and
    RequestError for what can be told before anything is started, and ServerFailed where a model does not come up.
    """

    def __init__(
        self, settings: dict[str, Any], *, host: str = "127.0.0.1", port: int = 8000, download: bool = False
    ) -> None:
        self._address = os.environ.get("RAY_ADDRESS") or None
        self._settings = _known(settings)
        if self._address is None or port > 65535:  # on a cluster that runs the port may be its own already
            port = free_port(host, port)
        for path in self._settings.configs:
            check_config(path, self._settings.overrides, download=download)
            if self._address is None and (problem := describe(path, path.stem, self._settings.overrides).problem):
                raise CheckpointMissing(problem)
        if self._address is None:
            check_resources(self._settings, [this_machine()])
        self.names = [path.stem for path in self._settings.configs]
        self.url = ""
        self._options = HTTPOptions(host=host, port=port)
        self._application = application_of(self._settings)
        self._client: ServeControllerClient | None = None
        self._is_deployed = False

    def __enter__(self) -> Cluster:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        check_address(self._address)
        ray.init(address=self._address or "local", include_dashboard=False, **OURS)
        signal.signal(signal.SIGTERM, before)  # Ray has put one in its place that ends the program by itself
        check_resources(self._settings, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        serve.start(http_options=self._options)
        self._client = client = _get_global_client()
        assert client is not None
        http = client.http_config  # of a Serve that was running before
        self.url = f"http://{'127.0.0.1' if http.host == '0.0.0.0' else http.host}:{http.port}"
        target = serve.RunTarget(self._application, name=NAME, route_prefix="/")
        self._is_deployed = True
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        self._wait()
        client.wait_for_proxies_serving()

    def _wait(self) -> None:
        """Until all models have come up. Raises ServerFailed with the reason why one can't."""
        told: set[str] = set()
        while (state := serve.status().applications[NAME]).status != ApplicationStatus.RUNNING:
            for name, deployment in state.deployments.items():
                reason, is_final = reason_in(deployment.message)
                has_no_place = "to be scheduled" in deployment.message
                if is_final or deployment.status in FAILED:
                    raise ServerFailed(f"{name} did not come up: {reason}")
                if has_no_place and name not in told:
                    told.add(name)
                    print(f"{name} waits for a place: other programs have the cluster's CPUs or GPUs.", file=sys.stderr)
            if state.status == ApplicationStatus.DEPLOY_FAILED:
                raise ServerFailed(f"The models did not come up: {_first_line(state.message)}")
            time.sleep(LOOK_SECONDS)

    def refuse(self) -> None:
        """From now on who asks is told that the server is being stopped."""
        with suppress(TimeoutError):  # it is told, and is busy
            self._of_the_doors("stop")

    def is_answering(self) -> bool:
        """Whether a door still has a question to answer."""
        try:
            return any(self._of_the_doors("answering"))
        except TimeoutError:  # too busy to say so
            return True

    def _of_the_doors(self, method: str) -> list[Any]:
        with suppress(RayError, RayServeException):  # a door that is gone refuses everybody and answers nobody
            return list(serve.get_app_handle(NAME).broadcast(method).results(timeout_s=5))
        return []

    def __exit__(self, *_: object) -> None:
        if not ray.is_initialized():
            return
        if self._address is not None and self._is_deployed:  # else one that ran before would go
            serve.delete(NAME)
        if self._client is not None:
            self._client.shutdown_cached_handles()  # else their threads start another Ray, to ask it something
        ray.shutdown()  # a cluster of our own ends with it
        _set_global_client(None)


def check_address(address: str | None) -> None:
    """Raise ServerFailed where nothing listens at a cluster's host:port, for which Ray would look for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not port.isdecimal() or "/" in host:
        return
    try:
        socket.create_connection((host, int(port)), timeout=ADDRESS_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServerFailed(
            f"No cluster answers at RAY_ADDRESS={address} ({reason}); start it with ray start --head, or unset that."
        ) from error


def _known(settings: dict[str, Any]) -> ClusterSettings:
    try:
        return ClusterSettings(**settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where.replace('_', '-')}: {first['msg'].lower()}.") from error


def reason_in(message: str) -> tuple[str, bool]:
    """Of what Ray Serve says of a deployment, often with a traceback: one line, and whether another try can't help."""
    ours = [
        found[2]
        for found in re.finditer(r"^models\.errors\.(\w+): (.+)$", message, re.MULTILINE)
        if issubclass(getattr(errors, found[1], object), errors.MiniVLMError)
    ]
    if ours:
        return ours[-1], True
    lines = [line for line in message.splitlines() if line.strip()]
    return (lines[-1].strip() if lines else "no reason was given"), False


def _first_line(said: object) -> str:
    return str(said).strip().partition("\n")[0]
