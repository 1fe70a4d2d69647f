"""The containers: rules of images and services, and that what they name is there. They are built elsewhere."""

from __future__ import annotations

import fnmatch
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import fields
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
import yaml

from app.arguments import parse_arguments
from app.health import is_healthy
from engine.stats import EngineStats
from tests.deploy.dockerfile import Instruction, faults_of, instructions_of
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("chat", "chat-cuda")
each_service = pytest.mark.parametrize("name", SERVICES)
SERVICE_KEYS = {
    *("build", "cap_drop", "command", "deploy", "environment", "image", "init", "networks", "ports", "profiles"),
    *("restart", "security_opt", "stop_grace_period", "volumes"),
}


def dockerfile() -> list[Instruction]:
    return instructions_of((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


def only(name: str) -> Instruction:
    (found,) = (one for one in dockerfile() if one.name == name)
    return found


def test_the_image_keeps_the_rules() -> None:
    assert list(faults_of(dockerfile())) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("USER 10001\n", "", "DL3002"),
        ("USER 10001", "USER chat", "DL3066"),
        ("3.11.14-slim-trixie", "latest", "DL3007"),
        ('ENTRYPOINT ["python", "demo.py"]', "ENTRYPOINT python demo.py", "DL3025"),
        (" --no-cache-dir", "", "DL3042"),
        ("HF_HOME=", "HF_TOKEN=x HF_HOME=", "secret"),
    ],
)
def test_the_rules_find_faults(before: str, after: str, fault: str) -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    assert before in text
    assert any(fault in found for found in faults_of(instructions_of(text.replace(before, after))))


def test_what_is_copied_is_there_and_is_sent_to_the_builder() -> None:
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_through = [line[1:] for line in ignored if line.startswith("!")]
    copied = [word for one in dockerfile() if one.name == "COPY" for word in one.text.split()[:-1] if word[:2] != "--"]
    for name in copied:
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name, rule) or rule.startswith(f"{name}/") for rule in let_through), name
    assert {"app", "engine", "models", "training", "demo.py", "pyproject.toml", "eval_configs"} <= set(copied)


def test_the_images_program_takes_its_arguments() -> None:
    assert only("ENTRYPOINT").words == ["python", "demo.py"]
    assert parse_arguments(only("CMD").words).download
    check = only("HEALTHCHECK").words
    assert check[:3] == ["python", "-m", "app.health"]


@each_service
def test_services_are_closed(name: str) -> None:
    service = SERVICES[name]
    assert service.keys() <= SERVICE_KEYS
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.search(r":(v?\d+\.\d+\.\d+|cpu|cuda)$", service["image"])
    for volume in service["volumes"]:
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (DEPLOY / source).is_file()
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", OURS)
def test_our_services(name: str) -> None:
    service = SERVICES[name]
    build = service["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    known = {one.text.partition("=")[0] for one in dockerfile() if one.name == "ARG"}
    assert build.get("args", {}).keys() <= known
    places = {volume.split(":")[1] for volume in service["volumes"]}
    assert places == set(only("VOLUME").words)
    command = [re.sub(r"\$\{\w+:-(.*)\}", r"\1", word) for word in service["command"]]
    args = parse_arguments(command)
    assert args.cfg_path.name == "tiny_minigpt_v2.yaml"
    assert args.grace < int(service["stop_grace_period"].removesuffix("s"))


def test_only_cpu_is_started_without_a_profile() -> None:
    assert [name for name, service in SERVICES.items() if "profiles" not in service] == ["chat"]
    assert SERVICES["chat-cuda"]["build"]["args"] == {"TORCH_INDEX": ""}
    (device,) = SERVICES["chat-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_settings_are_documented() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"\$\{(\w+)", text)):
        assert f"`{name}`" in documented


def test_prometheus_asks_by_a_name_that_the_server_answers_to() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    for name in OURS:
        assert parse_arguments(SERVICES[name]["command"][2:]).allow_host == [host]
    assert host in SERVICES
    assert host in SERVICES["chat-cuda"]["networks"]["default"]["aliases"]
    assert port == only("EXPOSE").text


def test_the_dashboard_shows_every_counter_and_no_other() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "minivlm-chat.json").read_text(encoding="utf-8"))
    source = yaml.safe_load((DEPLOY / "grafana" / "datasources.yaml").read_text(encoding="utf-8"))["datasources"][0]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for expression in expressions for name in re.findall(r"minivlm_\w+", expression)}
    totals = {f"minivlm_{one.name}_total" for one in fields(EngineStats) if one.metadata["kind"] == "total"}
    others = {f"minivlm_{one.name}" for one in fields(EngineStats) if one.metadata["kind"] != "total"}
    assert shown == totals | others
    for expression in expressions:  # a total says something only by how fast it grows
        assert bool(re.match(r"(rate|increase)\(", expression)) == any(name in expression for name in totals)
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}


class Answering(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/health"
        server.shutdown()


@pytest.mark.parametrize(("status", "is_there"), [(200, True), (401, True), (404, False), (503, False)])
def test_the_health_check(status: int, is_there: bool, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Answering, "status", status)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # the check goes past a proxy
    assert is_healthy(server) is is_there


def test_no_server_is_not_healthy() -> None:
    assert not is_healthy("http://127.0.0.1:9/health")
