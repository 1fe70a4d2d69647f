"""Decoding in other processes: the same pictures, and no file takes more than its share of time and memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from app.chat.decoding import fair_places
from app.chat.decoding import pool as pools
from app.chat.decoding.decode import DecodeError, decode
from app.chat.decoding.pool import NICE, DecoderPool, Worker
from engine.asker import ASKER, Asker
from tests.app.helpers import encode, scene
from tests.paths import ROOT
from tests.waiting import eventually


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    pool = DecoderPool(2)
    yield pool
    pool.close()


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Workers run this instead, after the worker's own functions have been imported; only pictures are decoded."""
    start = subprocess.Popen
    code = f"import app.chat.decoding.worker as worker\nworker.load_decoders = lambda: None\n{code}"
    code = f"from app.chat.decoding.worker import *\n{code}"
    monkeypatch.setattr(subprocess, "Popen", lambda command, **rest: start([sys.executable, "-c", code], **rest))


def test_it_decodes_as_here(pool: DecoderPool) -> None:
    for data in (encode(scene()), encode(scene(), "JPEG"), encode(Image.new("L", (1, 1)))):
        there, here = pool.decode(data), decode(data)
        assert (np.asarray(there.image) == np.asarray(here.image)).all()
        assert (there.original_size, there.shows_alike) == (here.original_size, here.shows_alike)


def test_what_is_no_picture_is_said_and_the_worker_goes_on(pool: DecoderPool) -> None:
    for _ in range(3):
        with pytest.raises(DecodeError, match="is not an image"):
            pool.decode(b"no picture")
    pids = {worker.pid for worker in pool._idle}
    pool.decode(encode(scene()))
    assert {worker.pid for worker in pool._idle} == pids


def test_what_decoders_print_is_not_for_the_log(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A stranger's files would write a line each; libtiff and Pillow have many."""
    noise = "(os.write(1, b'from C'), os.write(2, b'from C'), warnings.warn('from Pillow'), original(data))[-1]"
    program(monkeypatch, f"original = worker.decode\nworker.decode = lambda data: {noise}\nmain()")
    assert pool.decode(encode(scene())).image.size == (200, 100)
    pool.close()
    assert capfd.readouterr().err == ""


def test_many_at_once_share_the_workers(pool: DecoderPool) -> None:
    with ThreadPoolExecutor(12) as threads:
        sizes = list(threads.map(lambda n: pool.decode(encode(Image.new("RGB", (n, 2)))).image.width, range(1, 13)))
    assert sizes == list(range(1, 13))
    assert len(pool._idle) == 3  # one more than decode at once


def test_where_a_picture_was_given_up_nobody_waits_for_a_process_to_start(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's picture waited a third of a second for that, three times what a conversation takes."""
    pool.decode(encode(scene()))
    ready = {worker.pid for worker in pool._idle}
    with pool._worker() as (one, _), pool._worker() as (other, _):
        one.was_given_up = True
        other.was_given_up = True
    assert len(pool._idle) == 1  # none is started before somebody's picture is there
    with pool._worker() as (third, is_new):
        assert not is_new
        assert third.pid in ready - {one.pid, other.pid}
    assert len(pool._idle) == 3
    assert not {one.pid, other.pid} & {worker.pid for worker in pool._idle}


def test_a_file_that_takes_too_long_is_given_up(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "import time; worker.decode = lambda data: time.sleep(1000)\nmain()")
    with pytest.raises(DecodeError, match="takes too long"):
        pool.decode(encode(scene()), max_seconds=0.5)
    monkeypatch.undo()
    assert pool.decode(encode(scene())).image.size == (200, 100)  # others go on with a new process


def test_slow_pictures_of_two_addresses_keep_no_third_one_waiting(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(fair_places, "LITTLE", 0.01)
    monkeypatch.setattr(pools, "LOOK_SECONDS", 0.01)
    slow, quick, are_let_go = encode(Image.new("RGB", (300, 300))), encode(scene()), tmp_path / "go on"
    spin = f"while len(data) == {len(slow)} and not os.path.exists({str(are_let_go)!r}): pass"
    program(monkeypatch, f"def spinning(data):\n    {spin}\n    return decode(data)\nworker.decode = spinning\nmain()")

    def read(client: str, data: bytes) -> tuple[int, int]:
        ASKER.set(Asker(client, client))
        return pool.decode(data).image.size

    with ThreadPoolExecutor(3) as threads:
        held = [threads.submit(copy_context().run, read, client, slow) for client in ("1.1.1.1", "2.2.2.2")]
        assert eventually(lambda: len(pool._turns._held) == 2)
        try:
            assert threads.submit(copy_context().run, read, "3.3.3.3", quick).result(60) == (200, 100)
        finally:
            are_let_go.touch()
        assert [one.result(60) for one in held] == [(300, 300)] * 2


@pytest.mark.skipif(not hasattr(signal, "SIGXCPU"), reason="the system has no limit of processor time")
def test_processor_time_is_limited_by_the_system(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "worker.MAX_SECONDS = 0\ndef spin(data):\n while True: pass\nworker.decode = spin\nmain()"
    program(monkeypatch, code)
    with pytest.raises(DecodeError, match="takes too long"):
        pool.decode(encode(scene()))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit a process's memory")
def test_memory_is_limited_by_the_system(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "worker.MAX_MEMORY = 64 * 2**20\nmain()")
    with pytest.raises(DecodeError, match="needs too much memory"):
        pool.decode(encode(Image.new("RGB", (6000, 6000))))
    assert pool.decode(encode(scene())).image.size == (200, 100)


def test_with_little_memory_free_a_picture_gets_half_of_it(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container of 2 GiB, which the system may end as a whole where that is too little."""
    program(monkeypatch, "sizes = iter([2**40, 2**27, 2**40])\nworker.free_memory = lambda: next(sizes)\n"
            "worker.LEAST_MEMORY = 2**20\nmain()")  # fmt: skip
    large = encode(Image.new("RGB", (6000, 6000)))
    pool.decode(large)
    pids = {worker.pid for worker in pool._idle}
    with pytest.raises(DecodeError, match="needs too much memory"):
        pool.decode(large)
    pool.decode(large)
    assert {worker.pid for worker in pool._idle} == pids


def test_a_decoder_that_breaks_down_takes_only_its_own_process(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(monkeypatch, "worker.decode = lambda data: os.abort()\nmain()")
    with pytest.raises(DecodeError, match="broke down"):
        pool.decode(encode(scene()))
    monkeypatch.undo()
    assert pool.decode(encode(scene())).image.size == (200, 100)


@pytest.mark.parametrize(
    "reply", [b"{}", b"[1]", b"5", b'{"size": [99999, 99999]}', b'{"size": "ab"}', b'{"size": []}']
)
def test_a_worker_that_was_taken_over_can_say_nothing_but_a_picture(
    pool: DecoderPool, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    program(
        monkeypatch, f"import sys; sys.stdin.buffer.read(8); sys.stdout.buffer.write({reply!r} + b'\\n'); sys.exit(1)"
    )
    with pytest.raises(DecodeError, match="broke down"):
        pool.decode(encode(scene()))


def test_one_that_ended_while_idle_is_replaced(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "worker.IDLE = 0.01\nmain()")
    first = Worker()
    first._process.wait()
    pool._idle = [first]
    monkeypatch.undo()
    assert pool.decode(encode(scene())).image.size == (200, 100)


def test_one_that_is_just_ending_is_replaced_too(pool: DecoderPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its pipes are closed before it has ended: that is no reason to refuse somebody's picture."""
    program(monkeypatch, "import time\nos.close(0)\nos.close(1)\ntime.sleep(0.5)")
    pool._idle = [Worker()]
    monkeypatch.undo()
    assert pool.decode(encode(scene())).image.size == (200, 100)


def test_a_worker_does_not_outlive_its_server() -> None:
    """Even one that was killed: the end of its input ends it."""
    code = "from app.chat.decoding.pool import *; w = Worker(); print(w.pid, flush=True); os.kill(os.getpid(), 9)"
    server = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    worker = int(server.stdout)
    assert eventually(lambda: not psutil.pid_exists(worker) or psutil.Process(worker).status() == "zombie")


def test_a_worker_whose_server_was_killed_meanwhile_says_nothing() -> None:
    worker = subprocess.Popen(
        [sys.executable, "-m", "app.chat.decoding.worker"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert worker.stdin
    assert worker.stdout
    worker.stdout.close()
    data = encode(Image.new("RGB", (600, 600)))
    _, said = worker.communicate(len(data).to_bytes(8, "big") + data, timeout=60)
    assert (worker.returncode, said) == (0, b"")


@pytest.mark.skipif(os.name != "posix", reason="other systems have other priorities")
def test_a_worker_leaves_the_processor_to_answers(pool: DecoderPool) -> None:
    pool.decode(encode(scene()))
    worker = pool._idle[0].pid
    assert psutil.Process(worker).nice() == min(19, psutil.Process().nice() + NICE)
    assert os.getpgid(worker) != os.getpgid(0)  # Ctrl+C does not reach it
    assert os.getsid(worker) == os.getsid(0)  # its priority counts against the server's


def test_nobodys_picture_is_the_one_that_libraries_are_loaded_for(tmp_path: Path) -> None:
    """The first of a new process took 0.1 s more on a busy machine, as long as a whole conversation."""
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"):
        (tmp_path / kind).write_bytes(encode(scene(), kind))
    code = f"""
import pathlib, sys
import app.chat.decoding.worker as worker
def files(_):
    before = set(sys.modules)
    for path in pathlib.Path({str(tmp_path)!r}).iterdir():
        worker.decode(path.read_bytes())
    print(sorted(set(sys.modules) - before))
worker.silence, worker.wait_for = lambda: None, files
worker.main()
"""
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "[]"


@pytest.mark.skipif(sys.platform != "linux", reason="what is ended where memory ends is Linux' to say")
def test_where_memory_ends_the_system_ends_a_worker_before_the_server(pool: DecoderPool) -> None:
    """With 2 GiB for a container, two large pictures and the server are more than there is."""
    pool.decode(encode(scene()))
    worker = Path(f"/proc/{pool._idle[-1].pid}/oom_score_adj")
    assert worker.read_text(encoding="ascii") == "1000\n"


def test_the_worker_imports_nothing_large() -> None:
    code = "import sys, app.chat.decoding.worker; print({'torch', 'gradio', 'transformers'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == "set()"
    assert pools.SIZE >= 2
