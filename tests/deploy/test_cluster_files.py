"""The files that put a cluster on machines say what the program's own settings know."""

from __future__ import annotations

import ast
import re
from typing import Any

import pytest
import yaml

from tests.deploy.composed import DEPLOY, WITH_CUDA, read
from tests.deploy.dockerfile import instructions_of, stages_of
from tests.paths import ROOT

SERVE, SERVICE = read("serve.yaml"), read("rayservice.yaml")
CLUSTER: dict[str, Any] = SERVICE["spec"]["rayClusterConfig"]
STAGE = {
    one.name: one for one in stages_of(instructions_of((DEPLOY / "Dockerfile").read_text(encoding="utf-8")))["cluster"]
}
INSIDE = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])


@pytest.mark.parametrize("config", [SERVE, INSIDE], ids=["serve.yaml", "rayservice.yaml"])
def test_the_application_is_ours_and_its_settings_are_known(config: dict[str, Any]) -> None:
    (application,) = config["applications"]
    module, name = application["import_path"].split(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
    assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    (settings,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ClusterSettings"]
    fields = [
        node.target.id for node in settings.body if isinstance(node, ast.AnnAssign) and hasattr(node.target, "id")
    ]
    assert set(application["args"]) <= set(fields)
    for path in application["args"]["configs"]:
        assert (ROOT / path).is_file()


def test_both_serve_the_same() -> None:
    assert SERVE["applications"] == INSIDE["applications"]


def pods() -> list[dict[str, Any]]:
    return [one["template"]["spec"] for one in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])]


def test_a_worker_has_the_gpu_that_a_replica_asks_for() -> None:
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("ray.io/v1", "RayService")
    (group,) = CLUSTER["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    (application,) = INSIDE["applications"]
    assert float(container["resources"]["limits"]["nvidia.com/gpu"]) == application["args"]["gpus"]
    assert CLUSTER["enableInTreeAutoscaling"] is True  # else no machine comes for a further replica
    assert group["minReplicas"] <= application["args"]["min_replicas"]
    assert group["maxReplicas"] >= application["args"]["max_replicas"]


def test_its_ray_is_the_one_that_the_image_installs() -> None:
    (version,) = re.findall(
        r"^ray\[.*\]==(.*)$", (ROOT / "requirements-cluster.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert CLUSTER["rayVersion"] == version


def test_the_image_is_one_that_compose_builds() -> None:
    built = {one["image"]: one["build"]["target"] for one in WITH_CUDA["services"].values() if "build" in one}
    images = {container["image"] for pod in pods() for container in pod["containers"]}
    assert {built[image] for image in images} == {"cluster"}


def test_weights_are_mounted_where_the_image_has_them() -> None:
    (group,) = CLUSTER["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert {one["mountPath"] for one in container["volumeMounts"]} == set(STAGE["VOLUME"].words)
    assert {one["mountPath"].rpartition("/")[2] for one in container["volumeMounts"]} == {
        one["subPath"] for one in container["volumeMounts"]
    }
    assert {one["name"] for one in container["volumeMounts"]} == {
        one["name"] for one in group["template"]["spec"]["volumes"]
    }


def test_its_port_is_the_one_that_the_image_names() -> None:
    (container,) = CLUSTER["headGroupSpec"]["template"]["spec"]["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert str(ports["serve"]) == STAGE["EXPOSE"].text == str(SERVE["http_options"]["port"])
    text = (DEPLOY / "rayservice.yaml").read_text(encoding="utf-8")
    assert f"http://{SERVICE['metadata']['name']}-serve-svc:{ports['serve']}/v1" in text  # as KubeRay names it
