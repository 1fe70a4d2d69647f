"""Where each released file lies, as data: its place under `checkpoints/`, size, sha256, and addresses that have it.

Sizes and hashes are those that the hub publishes with a file (of its git-lfs pointer), most of them seen alike in two
or more repositories. They are what to expect, not what to insist on: a file that is what its server announces, and not
what stands here, is told, with both hashes, and used all the same. Whole repositories are listed by the hub when they
are fetched; here stand only their terms.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

RepoType = Literal["model", "space", "dataset"]


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the hub. `revision` is a branch, a tag or a commit."""

    repository: str
    file: str
    repo_type: RepoType = "model"
    revision: str = "main"

    def __str__(self) -> str:
        kind = "" if self.repo_type == "model" else f"{self.repo_type}s/"
        return f"https://huggingface.co/{kind}{self.repository}/resolve/{self.revision}/{self.file}"


@dataclass(frozen=True)
class WebFile:
    """A file on another server."""

    url: str

    def __str__(self) -> str:
        return self.url


Address = HubFile | WebFile


@dataclass(frozen=True)
class OlderUpload:
    """Another file that was published under the same name; `what` completes "this is …"."""

    what: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ReleasedFile:
    """One file: where configurations look for it, and where it can be had, the authors' own address first.

    `place` is relative to `checkpoints/`; `size` is in bytes; `sha256` is in hex. None: not known. `by_hand` is an
    address that only a browser can fetch from; `older` are other uploads under the same name, on people's disks.
    """

    place: str
    terms: str
    addresses: tuple[Address, ...] = ()
    size: int | None = None
    sha256: str | None = None
    by_hand: str = ""
    older: tuple[OlderUpload, ...] = ()


_BSD = "BSD 3-Clause"
_LAVIS = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
_MINIGPT4_SPACE = "Vision-CAIR/minigpt4"
_TINYGPT_V = "Tyrannosaurus/TinyGPT-V"

FILES: tuple[ReleasedFile, ...] = (
    ReleasedFile(
        place="eva_vit_g.pth",
        terms=_BSD,
        size=2025249237,
        sha256="99d2bb36c6b52c94fe6e2e12373afb27de57ae81378c3d8c53bf0e83b0f4275f",
        addresses=(
            WebFile(f"{_LAVIS}eva_vit_g.pth"),
            HubFile("lainxx/eva_vit_g", "eva_vit_g.pth"),
            HubFile("catid/minigpt4", "eva_vit_g.pth"),
        ),
    ),
    ReleasedFile(
        place="blip2_pretrained_flant5xxl.pth",
        terms=_BSD,
        size=433481467,
        sha256="4b3839ea6c617f315ead9bf4036bbb0f0cf6bf62695ecfc14968ea626af03a29",
        addresses=(
            WebFile(f"{_LAVIS}blip2_pretrained_flant5xxl.pth"),
            HubFile(_MINIGPT4_SPACE, "blip2_pretrained_flant5xxl.pth", "space"),
        ),
    ),
    ReleasedFile(
        place="minigpt_v2/minigptv2_checkpoint.pth",
        terms=_BSD,
        size=679807405,
        sha256="0d91a25269fb6648d9d6a23dbecbd33c9866610016e10fc1d707f97625d399b4",
        addresses=(HubFile("Vision-CAIR/MiniGPT-v2", "minigptv2_checkpoint.pth", "space"),),
    ),
    ReleasedFile(
        place="minigpt_v2/minigptv2_stage2.pth",
        terms=_BSD,
        sha256="6d23539a5d0f2e02539dde09de21c89bcb054bb989d0a2800b280abd9d7f57a0",
        addresses=(HubFile("LCZZZZ/MiniGPT-4", "checkpoint_stage2.pth", "space"),),
        by_hand="https://drive.google.com/file/d/1Vi_E7ZtZXRAQcyz4f8E6LtLh2UXABCmu/view",
    ),
    ReleasedFile(
        place="minigpt_v2/minigptv2_stage3.pth",
        terms=_BSD,
        by_hand="https://drive.google.com/file/d/1HkoUUrjzFGn33cSiUkI-KcT-zysCynAz/view",
    ),
    ReleasedFile(
        place="minigpt4/prerained_minigpt4_7b.pth",
        terms=_BSD,
        size=37907201,
        sha256="017a9ed588a11ed383711003cf50cf675191420a04689f682fb56fa9bbb8dcbb",
        addresses=(
            HubFile(_MINIGPT4_SPACE, "prerained_minigpt4_7b.pth", "space"),
            HubFile("wangrongsheng/MiniGPT4-7B", "prerained_minigpt4_7b.pth"),
        ),
    ),
    ReleasedFile(
        place="minigpt4/pretrained_minigpt4.pth",
        terms=_BSD,
        size=47369169,
        sha256="1e7b8a3c21f146654c21a1a29a577dab2c3bd1aa3b1bc902f39e86954357a811",
        addresses=(
            HubFile("Vision-CAIR/MiniGPT-4", "pretrained_minigpt4.pth"),
            HubFile(_MINIGPT4_SPACE, "checkpoint.pth", "space"),
        ),
    ),
    ReleasedFile(
        place="minigpt4/pretrained_minigpt4_llama2_7b.pth",
        terms=_BSD,
        size=276957567,
        sha256="e2904bdc6ff4c95e5903d3c08cc0ad5b3f860be9cdbbd6fd05d99cd35b375096",
        addresses=(
            HubFile("Vision-CAIR/MiniGPT4-Video", "image_llama2_checkpoint.pth"),
            HubFile("juliozhao/pretrained_minigpt4_llama2_7b", "pretrained_minigpt4_llama2_7b.pth"),
        ),
    ),
    ReleasedFile(
        place="tinygpt_v/TinyGPT-V_for_Stage1.pth",
        terms=_BSD,
        size=165963356,
        sha256="15dead9d74257d3b718ef10948b209a0f4a8787047991b15d40ed5c17050e9da",
        addresses=(HubFile(_TINYGPT_V, "TinyGPT-V_for_Stage1.pth"),),
    ),
    ReleasedFile(
        place="tinygpt_v/TinyGPT-V_for_Stage2.pth",
        terms=_BSD,
        size=543639991,
        sha256="a0239c9531f3ccffd3a6a1a1a28cb73be2474398cfc1d6a3ee40290df643a437",
        addresses=(HubFile(_TINYGPT_V, "TinyGPT-V_for_Stage2.pth"),),
    ),
    ReleasedFile(
        place="tinygpt_v/TinyGPT-V_for_Stage3.pth",
        terms=_BSD,
        size=543640119,
        sha256="a7b70bb29a827792ed2f17655ec5bba2f964e7a08fb718edb914004edc2fd5c8",
        addresses=(HubFile(_TINYGPT_V, "TinyGPT-V_for_Stage3.pth"),),
    ),
    ReleasedFile(
        place="tinygpt_v/TinyGPT-V_for_Stage4.pth",
        terms=_BSD,
        size=543654414,
        sha256="c74973388674f881e57a150de2e69241b5fd9c6b2c52c14536906803abe6d409",
        addresses=(HubFile(_TINYGPT_V, "TinyGPT-V_for_Stage4.pth"),),
        older=(
            OlderUpload(
                "the upload of December 2023, with a trained Q-Former and its optimiser's state",
                1805910138,
                "2e6da66676da74a47bce0329ddfedd1f37306c45c0053d6e69376e55c2027d0d",
            ),
            OlderUpload(
                "the upload of 24 MB, which has no LoRA",
                23711618,
                "0e1dac684e81b9dbfe1854240f529516711e4cd65e71977acf010a8b78891f61",
            ),
        ),
    ),
    *(
        ReleasedFile(
            place=f"MGM-Pretrain/{name}/mm_projector.bin",
            terms="CC BY-NC 4.0",
            addresses=(HubFile("YanweiLi/MGM-Pretrain", f"{name}/mm_projector.bin"),),
        )
        for name in ("MGM-2B", "MGM-7B", "MGM-13B", "MGM-8x7B", "MGM-34B")
    ),
)

# Terms of whole repositories, by the beginning of their name; `accept` is a page on which they must be accepted first.
_META = "Llama 2 Community License"
_TERMS: dict[str, tuple[str, bool]] = {
    "meta-llama/": (_META, True),
    "lmsys/vicuna": (_META, False),
    "Vision-CAIR/vicuna": ("Vicuna v0, made from LLaMA 1: non-commercial research only", False),
    "microsoft/phi-2": ("MIT", False),
    "YanweiLi/MGM": ("CC BY-NC 4.0, and the language model's own terms", False),
    "LanguageBind/MoE-LLaVA": ("research preview, non-commercial, and the language model's own terms", False),
}
# What a repository's size hides.
_REMARKS = {
    "Vision-CAIR/vicuna": "its 13B weights are stored in more than 16 bits: 39 GB, of which 26 GB are needed in memory",
}


def released_files() -> Iterator[ReleasedFile]:
    """Every file of the table."""
    yield from FILES


def find_released(value: str) -> ReleasedFile | None:
    """The file that a key's value names: by its place under `checkpoints/`, else by its name alone; None: unknown."""
    name = PurePosixPath(value.replace("\\", "/"))
    exact = next((file for file in released_files() if file.place == str(name)), None)
    # "mm_projector.bin" is the name of many files, which only their folder tells apart.
    ending = "/".join(name.parts[-2:]) if name.name == "mm_projector.bin" else name.name
    return exact or next((file for file in released_files() if f"/{file.place}".endswith(f"/{ending}")), None)


def terms_of(repository: str) -> tuple[str, bool]:
    """A repository's terms of use ("" where unknown), and whether they must be accepted on its page."""
    return next((terms for start, terms in _TERMS.items() if repository.startswith(start)), ("", False))


def remark_on(repository: str) -> str:
    """What is worth knowing before this repository is downloaded, if anything."""
    return _REMARKS.get(repository, "")
