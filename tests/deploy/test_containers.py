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

from app.arguments import parse_arguments
from app.cluster.__main__ import arguments as cluster_arguments
from app.health import is_healthy
from engine.stats import EngineStats
from tests.deploy.composed import COMPOSE, DEPLOY, WITH_CUDA, command_of, read
from tests.deploy.dockerfile import Instruction, faults_of, instructions_of, stages_of
from tests.paths import ROOT

SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {"page": "chat", "model": "cluster"}  # the stage that each is
PARSERS = {"page": parse_arguments, "model": cluster_arguments}
SERVICE_KEYS = {
    *("build", "cap_drop", "command", "depends_on", "deploy", "environment", "image", "init", "ports", "restart"),
    *("security_opt", "shm_size", "stop_grace_period", "volumes"),
}
each_service = pytest.mark.parametrize(
    "service",
    [*SERVICES.values(), WITH_CUDA["services"]["model"]],
    ids=[*SERVICES, "model-cuda"],
)
each_of_ours = pytest.mark.parametrize("name", OURS)


def dockerfile() -> list[Instruction]:
    return instructions_of((DEPLOY / "Dockerfile").read_text(encoding="utf-8"))


def only(stage: str, name: str) -> Instruction:
    (found,) = (one for one in stages_of(dockerfile())[stage] if one.name == name)
    return found


def test_the_images_keep_the_rules() -> None:
    assert list(faults_of(dockerfile())) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("USER 10001\n", "", "DL3002"),
        ("USER 10001", "USER chat", "DL3066"),
        ("3.11.14-slim-trixie", "latest", "DL3007"),
        ("FROM base AS cluster", "FROM bass AS cluster", "DL3006"),
        ('ENTRYPOINT ["python", "demo.py"]', "ENTRYPOINT python demo.py", "DL3025"),
        ('ENTRYPOINT ["python", "demo.py"]', "", "there is no ENTRYPOINT"),
        (" --no-cache-dir", "", "DL3042"),
        (" --no-install-recommends", "", "DL3015"),
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
    copies = [one.text.split() for one in dockerfile() if one.name == "COPY" and "--from=" not in one.text]
    copied = [word for words in copies for word in words[:-1] if word[:2] != "--"]
    for name in copied:
        assert (ROOT / name).exists()
        assert any(fnmatch.fnmatch(name, rule) or rule.startswith(f"{name}/") for rule in let_through), name
    assert {"app", "engine", "models", "training", "demo.py", "pyproject.toml", "eval_configs"} <= set(copied)


@pytest.mark.parametrize("stage", OURS.values())
def test_a_stage_has_the_program_and_installs_what_it_needs(stage: str) -> None:
    instructions = stages_of(dockerfile())[stage]
    assert "--from=code / ./" in [one.text for one in instructions]
    installed = {
        file for one in instructions if one.name == "RUN" for file in re.findall(r"-r (requirements\S*)", one.text)
    }
    assert installed == {"requirements.txt"} | ({"requirements-cluster.txt"} if stage == "cluster" else set())
    copied = [word for one in instructions if one.name == "COPY" for word in one.text.split()]
    assert installed <= set(copied)
    place = only(stage, "WORKDIR").text
    environment = " ".join(one.text for one in instructions if one.name == "ENV")
    assert f"PYTHONPATH={place}" in environment
    assert all(volume.startswith(f"{place}/") for volume in only(stage, "VOLUME").words)


def test_what_is_built_without_a_name_is_the_chat() -> None:
    assert list(stages_of(dockerfile()))[-1] == "chat"


@each_of_ours
def test_the_images_programs_take_their_arguments(name: str) -> None:
    stage, parse = OURS[name], PARSERS[name]
    program = {"page": ["python", "demo.py"], "model": ["python", "-m", "app.cluster"]}
    assert only(stage, "ENTRYPOINT").words == program[name]
    assert parse(only(stage, "CMD").words).download
    check = only(stage, "HEALTHCHECK").words
    assert check[:3] == ["python", "-m", "app.health"]
    assert check[3] == f"http://127.0.0.1:{only(stage, 'EXPOSE').text}/health"


@each_service
def test_services_are_closed(service: dict[str, Any]) -> None:
    assert service.keys() <= SERVICE_KEYS
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.search(r":(v?\d+\.\d+\.\d+|chat|cluster|cluster-cuda)$", service["image"])
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (DEPLOY / source).is_file()
        else:
            assert source in COMPOSE["volumes"]


@each_of_ours
def test_our_services_are_built_from_their_stages(name: str) -> None:
    service = SERVICES[name]
    build = service["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
    assert build["target"] == OURS[name]
    assert service["image"] == f"minivlm-chat:{OURS[name]}"
    known = {one.text.partition("=")[0] for one in dockerfile() if one.name == "ARG"}
    assert build.get("args", {}).keys() <= known


def test_one_command_starts_a_page_a_server_of_models_and_what_watches_it() -> None:
    assert list(SERVICES) == ["page", "model", "prometheus", "grafana"]
    assert not any("profiles" in service for service in SERVICES.values())


def test_the_page_asks_the_server_of_models() -> None:
    page, model = SERVICES["page"], SERVICES["model"]
    asked, served = parse_arguments(command_of(page)), cluster_arguments(command_of(model))
    assert asked.server_url == f"http://model:{served.port}/v1"
    assert served.host == "0.0.0.0"
    assert served.download
    assert served.cfg_path[0].name == "tiny_minigpt_v2.yaml"
    assert str(served.port) == only("cluster", "EXPOSE").text
    assert page["depends_on"] == {"model": {"condition": "service_healthy"}}  # by the stage's HEALTHCHECK
    assert page["environment"]["MINIVLM_SERVER_KEY"] == model["environment"]["MINIVLM_API_KEY"]
    assert page["ports"] == [f"127.0.0.1:${{PORT:-7860}}:{only('chat', 'EXPOSE').text}"]
    places = {volume.split(":")[1] for volume in model["volumes"]}
    assert places == set(only("cluster", "VOLUME").words)


def test_answers_may_end_before_a_container_is_killed() -> None:
    application = (ROOT / "app" / "cluster" / "application.py").read_text(encoding="utf-8")
    (draining,) = re.findall(r"^DRAINING_SECONDS = ([\d.]+)", application, re.MULTILINE)
    grace = {name: int(SERVICES[name]["stop_grace_period"].removesuffix("s")) for name in OURS}
    assert grace["model"] > float(draining)
    assert grace["page"] > parse_arguments(command_of(SERVICES["page"])).grace


def test_cuda_adds_gpus_and_nothing_else() -> None:
    plain, cuda = SERVICES["model"], WITH_CUDA["services"]["model"]
    assert command_of(cuda) == [*command_of(plain), "--gpus", "1"]
    assert cluster_arguments(command_of(cuda)).gpus == 1
    assert cuda["build"] == plain["build"] | {"args": {"TORCH_INDEX": ""}}
    (device,) = cuda["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert {name: one for name, one in WITH_CUDA["services"].items() if name != "model"} == {
        name: one for name, one in SERVICES.items() if name != "model"
    }


def test_settings_are_documented() -> None:
    text = (DEPLOY / "compose.yaml").read_text(encoding="utf-8")
    documented = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"\$\{(\w+)", text)):
        assert f"`{name}`" in documented


def test_prometheus_asks_the_server_of_models() -> None:
    (job,) = read("prometheus.yaml")["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target == f"model:{only('cluster', 'EXPOSE').text}"


def test_the_dashboard_shows_every_counter_and_no_other() -> None:
    dashboard = json.loads((DEPLOY / "grafana" / "minivlm-chat.json").read_text(encoding="utf-8"))
    source = read("grafana/datasources.yaml")["datasources"][0]
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {name for expression in expressions for name in re.findall(r"minivlm_\w+", expression)}
    totals = {f"minivlm_{one.name}_total" for one in fields(EngineStats) if one.metadata["kind"] == "total"}
    others = {f"minivlm_{one.name}" for one in fields(EngineStats) if one.metadata["kind"] != "total"}
    assert shown == totals | others
    for expression in expressions:  # a total says something only by how fast it grows
        assert bool(re.match(r"(rate|increase)\(", expression)) == any(name in expression for name in totals)
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in SERVICES


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
