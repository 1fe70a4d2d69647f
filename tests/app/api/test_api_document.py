"""The examples of docs/api.md are run as they stand, but for the address and the model's name."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app.api.openai.schema import WITHOUT_EFFECT, ChatRequest
from tests.app.api.serving import NAME, Api, data_uri
from tests.app.helpers import scene
from tests.fakes import ScriptedModel
from tests.paths import ROOT

TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(python|bash)\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
BOX = "<p>red circle</p> {<10><20><45><60>}"


@pytest.mark.parametrize(("language", "example"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example(api: Api, scripted: ScriptedModel, tmp_path: Path, language: str, example: str) -> None:
    if language == "bash" and not (shutil.which("curl") and shutil.which("base64")):
        pytest.skip("no curl")
    scripted.default = BOX
    scene().save(tmp_path / "scene.png")
    code = example.replace("http://127.0.0.1:7860", api.url.rstrip("/")).replace("tiny_minigpt_v2", NAME)
    command = [sys.executable, "-c", code] if language == "python" else ["bash", "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "0.1" in done.stdout
    assert '"error"' not in done.stdout
    assert scripted.seen[-1][-1].images[0].size == (200, 100)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4


def test_vlmevalkit_as_the_document_starts_it(api: Api, scripted: ScriptedModel) -> None:
    """The body is the one that its LMDeployAPI posts (August 2026) for that command."""
    command = re.search(r"`python run\.py .*`", TEXT)
    assert command is not None
    arguments = shlex.split(command[0].strip("`"))
    extra = json.loads(arguments[arguments.index("--extra-body") + 1])
    address = arguments[arguments.index("--base-url") + 1]
    parts = [
        {"type": "image_url", "image_url": {"url": data_uri(scene(), "jpeg")}},
        {"type": "text", "text": "Is there a red circle in the image? Please answer yes or no."},
    ]
    fields = {"n": 1, "max_tokens": 32768, "temperature": 0.0, **extra}
    answer = httpx.post(
        f"{address.replace('http://127.0.0.1:7860', api.url.rstrip('/'))}/chat/completions",
        headers={"Authorization": "Bearer sk-admin"},
        json={"model": NAME, "messages": [{"role": "user", "content": parts}], **fields},
    )
    assert answer.json()["choices"][0]["message"]["content"] == scripted.default
    assert scripted.seen[-1][-1].text.startswith("[vqa] Is there a red circle")


def test_every_error_code_is_listed() -> None:
    """And every field that is read."""
    folder = ROOT / "app" / "api"
    sources = "".join(path.read_text(encoding="utf-8") for path in folder.rglob("*.py"))
    codes = set(re.findall(r'code="(\w+)"', sources)) - {"invalid_request"}
    named = set(re.findall(r"`([\w]+)`", TEXT))
    assert codes - named == set()
    assert set(ChatRequest.model_fields) - {"model", "messages"} - named == set()
    assert {"n", "tools", "logprobs", "response_format"} <= set(WITHOUT_EFFECT)
