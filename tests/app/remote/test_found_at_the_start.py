"""What is known of another server before its page is opened: from its list of models, a YAML, and the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.arguments import parse_arguments
from app.chat.questions import check_number_of_images
from app.launch_elsewhere import serve_elsewhere
from app.remote.remote_config import DEFAULT_SAMPLING, RemoteConfig, remote_config
from app.remote.served_elsewhere import find_served
from models.conversation import Sampling
from models.errors import ConfigError, MiniVLMError, RequestError, ServerFailed
from models.tasks import Task
from tests.app.far_server import FarServer, raw, refuse

URL = "http://far:8000/v1"


def config(url: str | None = URL, path: Path | None = None, model: str | None = None, **keys: Any) -> RemoteConfig:
    options = [f"{name}={value}" for name, value in keys.items()]
    found = remote_config(path, options, url=url, key=None, model=model)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ("http://far:8000", "http://far:8000/v1"),
        ("http://far:8000/", "http://far:8000/v1"),
        ("http://far/v1/", "http://far/v1"),
        ("https://far/api/openai", "https://far/api/openai"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(given: str, asked: str) -> None:
    assert config(given).base_url == asked


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"url": "far:8000"}, "write an address such as"),
        ({"url": "ftp://far"}, "write an address such as"),
        ({"url": "http://me:secret@far"}, "a key goes into --server-key"),
        ({"boxes": "yolo"}, "boxes is 'yolo'; choose one of auto, minigpt, qwen2.5-vl"),
        ({"timeout": 0}, "timeout is 0"),
        ({"max_images": 0}, "max_images is 0"),
        ({"sampling.temperature": -1}, "sampling: temperature is -1"),
        ({"bxes": "none"}, "unknown key 'bxes'"),
        ({"tasks": "[{identifier: x}]"}, "missing key 'label'"),
    ],
)
def test_a_wrong_key_is_one_line(keys: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        config(**keys)
    assert words in str(raised.value)


def test_a_yaml_and_options_that_outweigh_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINIVLM_SERVER_KEY", "from the environment")
    path = tmp_path / "far.yaml"
    path.write_text("family: remote\nserver_url: http://a:1/v1\nboxes: qwen3-vl\nsampling: {temperature: 0}\n")
    read = config(None, path)
    assert (read.server_url, read.boxes, read.server_key) == ("http://a:1/v1", "qwen3-vl", "from the environment")
    assert read.sampling == Sampling(temperature=0, top_p=0.9, max_new_tokens=1024, repetition_penalty=1.0), (
        "what is not named is as for all servers"
    )
    assert config("http://b:2/v1", path, "m").server_url == "http://b:2/v1"


def test_a_yaml_of_another_family_is_no_server(tmp_path: Path) -> None:
    path = tmp_path / "here.yaml"
    path.write_text("family: minigpt_v2\n")
    assert remote_config(path, [], url=None, key=None, model=None) is None
    assert remote_config(tmp_path / "missing.yaml", [], url=None, key=None, model=None) is None
    with pytest.raises(RequestError, match="asks another server"):
        remote_config(path, [], url=URL, key=None, model=None)
    with pytest.raises(RequestError, match="go with --server-url"):
        remote_config(path, [], url=None, key="x", model=None)


def test_the_only_model_is_taken(far: FarServer) -> None:
    far.models = {"data": [{"id": "Qwen/Qwen3-VL-8B-Instruct", "max_model_len": 4096}]}
    served = find_served(config(far.url))
    assert (served.model, served.info.context_tokens, served.is_ours) == ("Qwen/Qwen3-VL-8B-Instruct", 4096, False)
    assert [task.identifier for task in served.info.tasks if task.gives_boxes] == ["[detection]", "[refer]"]
    assert served.info.sampling == DEFAULT_SAMPLING
    assert served.info.device in far.url
    assert "questions and pictures are sent" in served.info.description


def test_what_llama_cpp_says_of_its_file(far: FarServer) -> None:
    path = "/models/tiny-Q4_K_M.gguf"
    far.models = {"data": [{"id": path, "owned_by": "llamacpp", "meta": {"n_ctx": 512, "n_ctx_train": 131072}}]}
    served = find_served(config(far.url))
    assert (served.model, served.info.name, served.info.context_tokens) == (path, "tiny-Q4_K_M.gguf", 512)
    far.models = {"data": [{"id": path, "owned_by": "llamacpp", "meta": None}]}
    assert find_served(config(far.url)).info.context_tokens == 32_768, "what nobody says"


def test_of_several_one_must_be_named(far: FarServer) -> None:
    far.models = {"data": [{"id": "a"}, {"id": "b"}]}
    with pytest.raises(RequestError, match="choose one with --server-model: a, b"):
        find_served(config(far.url))
    assert find_served(config(far.url, model="b")).model == "b"
    with pytest.raises(RequestError, match="has no model 'c'; it has a, b"):
        find_served(config(far.url, model="c"))


def test_a_server_without_a_list(far: FarServer) -> None:
    far.models_reply = [refuse(404, {"detail": "Not Found"}), refuse(404, {"detail": "Not Found"})]
    assert find_served(config(far.url, model="m")).model == "m"
    with pytest.raises(ServerFailed, match="no such model or route"):
        find_served(config(far.url))
    far.models = {"data": []}
    with pytest.raises(RequestError, match="lists no model"):
        find_served(config(far.url))


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (refuse(401, {"error": {"message": "no key"}}), "wants a key (401); give one with --server-key: no key"),
        (raw(b"<html>", "text/html"), "is no list of models"),
        (raw(b'{"data": 5}', "application/json"), "is no list of models"),
        (raw(b"x" * (5 * 2**20), "application/json"), "that is no list"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_line(far: FarServer, reply: Any, words: str) -> None:
    far.models_reply = [reply]
    with pytest.raises(MiniVLMError) as raised:
        find_served(config(far.url))
    assert words in str(raised.value)


def test_nobody_there() -> None:
    with pytest.raises(ServerFailed, match="Nothing answers at http"):
        find_served(config("http://127.0.0.1:9"))


def test_a_server_that_is_loading_is_waited_for(far: FarServer) -> None:
    far.models_reply = [refuse(503, {"error": {"message": "Loading model"}}) for _ in range(3)]
    lines: list[str] = []
    waits: list[float] = []
    served = find_served(config(far.url), report=lines.append, wait=waits.append)
    assert served.model == "far/model"
    assert len(waits) == 3
    assert len(lines) == 1
    assert "Loading model" in lines[0]


OWN = {
    "id": "tiny",
    "owned_by": "minivlm-chat",
    "name": "Tiny",
    "family": "minigpt_v2",
    "max_model_len": 512,
    "max_images": 1,
    "one_image_per_chat": True,
    "answers_without_image": False,
    "task_buttons": [
        {"label": "Refer", "identifier": "[refer]", "prompt": "[refer] ", "hint": "h", "gives_boxes": True}
    ],
    "sampling": {"temperature": 0.6, "top_p": 0.5, "max_new_tokens": 99, "repetition_penalty": 1.1, "seed": 3},
}


@pytest.mark.parametrize(
    ("said", "most"),
    [
        ({"architecture": {"input_modalities": ["text"]}}, 0),
        ({"input_modalities": ["text", "file"]}, 0),
        ({"input_modalities": ["text", "image"]}, 8),
        ({"input_modalities": "text", "architecture": "none"}, 8),
        ({"input_modalities": []}, 8),
    ],
)
def test_a_model_that_reads_text_alone_is_sent_no_pictures(far: FarServer, said: dict[str, Any], most: int) -> None:
    far.models = {"data": [{"id": "far", **said}]}
    info = find_served(config(far.url)).info
    assert info.max_images_per_turn == most
    if most == 0:
        with pytest.raises(RequestError, match=r"takes no images; 1 are attached"):
            check_number_of_images(1, info)
    assert find_served(config(far.url, max_images=3)).info.max_images_per_turn == 3


def test_the_page_in_front_of_our_own_server_is_its_page(far: FarServer) -> None:
    far.models = {"data": [OWN, {**OWN, "id": "other"}]}
    served = find_served(config(far.url))
    info = served.info
    assert served.is_ours
    assert (info.name, info.family, info.context_tokens, info.max_images_per_turn) == ("Tiny", "minigpt_v2", 512, 1)
    assert (info.one_image_per_chat, info.answers_without_image) == (True, False)
    (task,) = info.tasks
    assert isinstance(task, Task)
    assert (task.label, task.identifier, task.gives_boxes) == ("Refer", "[refer]", True)
    assert info.sampling == Sampling(temperature=0.6, top_p=0.5, max_new_tokens=99, repetition_penalty=1.1)


@pytest.mark.parametrize(
    "wrong", [{"task_buttons": [{"label": 5}]}, {"task_buttons": ["x"]}, {"sampling": {"temperature": "hot"}}]
)
def test_a_server_that_says_to_be_ours_and_is_not(far: FarServer, wrong: dict[str, Any]) -> None:
    far.models = {"data": [{**OWN, **wrong}]}
    with pytest.raises(ConfigError):
        find_served(config(far.url))


@pytest.mark.parametrize("option", [["--device", "cpu"], ["--quantization", "4bit"], ["--download"], ["--terminal"]])
def test_options_about_loading_do_not_go_with_it(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_arguments(["--server-url", URL, *option])
    assert f"{option[0]} is about a model that is loaded here" in capsys.readouterr().err


def test_without_an_address_a_model_is_loaded_here() -> None:
    assert serve_elsewhere(parse_arguments([])) is False
    assert serve_elsewhere(parse_arguments(["--cfg-path", "eval_configs/tiny_minigpt_v2.yaml"])) is False


def test_the_terminal_can_not_ask_another_server(tmp_path: Path) -> None:
    path = tmp_path / "far.yaml"
    path.write_text(f"family: remote\nserver_url: {URL}\n")
    with pytest.raises(RequestError, match="--terminal and --ask need a model"):
        serve_elsewhere(parse_arguments(["--cfg-path", str(path), "--terminal"]))
