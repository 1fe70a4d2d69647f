"""The files that put a cluster on machines say what the program's own settings know."""

from __future__ import annotations

import ast
from typing import Any

import pytest
import yaml

from tests.paths import ROOT

SERVE = yaml.safe_load((ROOT / "deploy" / "serve.yaml").read_text(encoding="utf-8"))
SERVICE = yaml.safe_load((ROOT / "deploy" / "rayservice.yaml").read_text(encoding="utf-8"))
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


def test_a_worker_has_the_gpu_that_a_replica_asks_for() -> None:
    assert SERVICE["kind"] == "RayService"
    (group,) = SERVICE["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    (application,) = INSIDE["applications"]
    assert float(container["resources"]["limits"]["nvidia.com/gpu"]) == application["args"]["gpus"]
    assert group["minReplicas"] <= application["args"]["min_replicas"]
    assert group["maxReplicas"] >= application["args"]["max_replicas"]
    volumes = {one["name"] for one in group["template"]["spec"]["volumes"]}
    assert {one["name"] for one in container["volumeMounts"]} == volumes
