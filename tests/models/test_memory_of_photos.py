"""A large photograph costs no more memory than its crops: measured in a process of its own, for both Mini-Geminis.

The towers see 768 or 1536 pixels a side, as the released models do; their random weights are tiny.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.paths import ROOT

GOLDEN = ROOT / "tests" / "goldens" / "mgm-7b"
SIZES = {"normal": (768, 1, False), "hd": (1536, 2, True)}
KEPT = 8 << 20  # bytes that an allocator keeps for later
# Peaks of the process in bytes: after preparing a picture of the crops' own size, the photo; after answering on both.
PROGRAM = """
import json, sys
from PIL import Image
from engine.chat_engine import ChatEngine
from benchmarks.measure import peak_memory as peak
from models.conversation import Sampling, Turn
from models.loader import load_model
from models.tensors.freed import c_library
from tests.paths import ROOT

# Every large block of memory is the system's again when it is freed: peaks are of what is held, not of what the
# allocator keeps of it for later, which differs from run to run. (-3: glibc's M_MMAP_THRESHOLD, in bytes.)
if (libc := c_library()) is not None and hasattr(libc, "mallopt"):
    libc.mallopt(-3, 1 << 20)
model = load_model(sys.argv[1], device="cpu", dtype="float32", report=None)
side = model.image_processor.size
photo = Image.effect_noise((4000, 3000), 60).convert("RGB")
small = photo.crop((0, 0, side, side))
peaks = [0]

def prepare(image):
    model.image_key(image)
    return model.pixel_values([image])

prepare(small)
peaks[0] = peak()
prepare(photo)
peaks.append(peak())
with ChatEngine(model) as engine:
    def answer(image):
        *_, last = engine.stream([Turn("user", "What is it?", (image,))], Sampling(temperature=0, max_new_tokens=3))
        return last.num_new_tokens
    for angle in range(0, 300, 60):  # until the allocator has what it keeps for later ones
        answer(small.rotate(angle))
    peaks.append(peak())
    tokens = answer(photo)
    peaks.append(peak())
print(json.dumps({"peaks": peaks, "tokens": tokens}))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage on Windows")
@pytest.mark.parametrize("kind", SIZES)
def test_a_large_photo_needs_no_more_than_its_crops(kind: str, python: list[str], tmp_path: Path) -> None:
    side, grid, has_global = SIZES[kind]
    shutil.copytree(GOLDEN / "weights", tmp_path / "weights")
    shutil.copy(GOLDEN / "config.yaml", tmp_path)
    config = tmp_path / "weights" / "work_dirs" / "MGM" / "MGM-7B" / "config.json"
    values = json.loads(config.read_text())
    values |= {"image_size_aux": side, "image_grid": grid, "image_global": has_global}
    config.write_text(json.dumps(values))
    command = [*python, "-c", PROGRAM, str(tmp_path / "config.yaml")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    first, prepared, answered_small, answered_photo = result["peaks"]
    crops = 4 * 3 * side**2 * 4 // 3  # bytes: float32 RGB of the high-resolution picture, a third more for its views
    assert result["tokens"] == 3
    # The photo itself, 36 MB, is there before. Beside the crops there is what is left of it after the first resize,
    # `side` x 4000 pixels; a square of 4000 pixels and copies of the photo would be 120 MB.
    narrow = 4 * side * 4000
    assert prepared - first < crops + narrow
    # Threads of the engine each keep a mebibyte or two of their own, when they happen to need it (1.2 MiB once).
    assert answered_photo - answered_small < crops + narrow + KEPT
