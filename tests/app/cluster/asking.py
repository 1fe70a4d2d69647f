"""Questions to the cluster of the tests, and what its counters say."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import psutil

from benchmarks.random_models import picture
from tests.paths import ROOT

CONFIG = ROOT / "eval_configs" / "tiny_minigpt_v2.yaml"
OTHER_CONFIG = ROOT / "eval_configs" / "tiny_moe_llava.yaml"
CONFIGS = (CONFIG, OTHER_CONFIG)
SETTINGS: dict[str, Any] = {"configs": CONFIGS, "replicas": 2, "doors": 2, "cpus": 0.1}
MODEL, OTHER_MODEL = CONFIG.stem, OTHER_CONFIG.stem
QUESTIONS = ("[caption] describe this image", "[detection] circle", "[vqa] how many objects are there?")


def data_uri(number: int) -> str:
    buffer = io.BytesIO()
    picture(number).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def first_message(number: int, text: str = QUESTIONS[0]) -> dict[str, Any]:
    image = {"type": "image_url", "image_url": {"url": data_uri(number)}}
    return {"role": "user", "content": [image, {"type": "text", "text": text}]}


def conversation(url: str, number: int) -> list[tuple[str, int]]:
    """Three answers, each with how many tokens of its prompt were found in memory."""
    messages, answers = [first_message(number)], []
    with httpx.Client(base_url=url, timeout=120) as client:
        for following in (*QUESTIONS[1:], None):
            body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 60}
            answer = client.post("/v1/chat/completions", json=body).raise_for_status().json()
            text = answer["choices"][0]["message"]["content"]
            answers.append((text, answer["usage"]["prompt_tokens_details"]["cached_tokens"]))
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": following}]
    return answers


def counters(url: str, name: str) -> list[float]:
    """A counter of `/metrics`, of each replica of MODEL."""
    lines = httpx.get(f"{url}/metrics", timeout=60).raise_for_status().text.splitlines()
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(f'minivlm_{name}{{model="{MODEL}/')]


def replicas(application: str = "minivlm") -> list[psutil.Process]:
    """The processes of MODEL."""
    found = psutil.process_iter(["cmdline"])
    return [one for one in found if f"ServeReplica:{application}:{MODEL}" in " ".join(one.info["cmdline"] or ())]
