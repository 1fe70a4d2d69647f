"""A Dockerfile as a list of instructions, and the rules that any of ours keeps."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Instruction:
    """One instruction with its arguments on one line; of HEALTHCHECK, CMD and its options too."""

    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The exec form's list. Raises ValueError for the shell form, in which signals do not reach the program."""
        start = self.text.index("[")
        words: list[str] = json.loads(self.text[start:])
        return words


def instructions_of(text: str) -> list[Instruction]:
    """Every instruction, without comments, lines joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", lines)
    found = []
    for line in filter(None, map(str.strip, joined.splitlines())):
        name, _, rest = line.partition(" ")
        found.append(Instruction(name, rest.strip()))
    return found


def stages_of(instructions: list[Instruction]) -> dict[str, list[Instruction]]:
    """The stages by their names, each with the instructions of those that it is built from, without `FROM`."""
    stages: dict[str, list[Instruction]] = {}
    name = ""
    for one in instructions:
        if one.name == "FROM":
            base, _, name = one.text.partition(" AS ")
            stages[name] = list(stages.get(base, []))
        elif name:
            stages[name].append(one)
    return stages


def faults_of(instructions: list[Instruction]) -> Iterator[str]:
    """What is wrong, a line each: rules as hadolint has them, by its numbers where it has one."""
    stages = stages_of(instructions)
    for one in instructions:
        if one.name == "FROM" and not _is_known(one.text, stages):
            yield f"DL3006, DL3007: {one.text} is not a full version"
    for name, stage in stages.items():
        if "ENTRYPOINT" in [one.name for one in stage]:
            yield from (f"{name}: {fault}" for fault in _faults_of_stage(stage))
    if "ENTRYPOINT" not in [one.name for one in list(stages.values())[-1]]:
        yield "there is no ENTRYPOINT"


def _is_known(text: str, stages: dict[str, list[Instruction]]) -> bool:
    base = text.partition(" AS ")[0]
    return base == "scratch" or base in stages or bool(re.search(r":\d+\.\d+\.\d+[\w.-]*$", base))


def _faults_of_stage(instructions: list[Instruction]) -> Iterator[str]:
    names = [one.name for one in instructions]
    users = [one.text for one in instructions if one.name == "USER"]
    if not users or users[-1] in ("root", "0"):
        yield "DL3002: the program would run as root"
    elif not users[-1].isdecimal():
        yield "DL3066: a cluster can't tell that a user with this name is not root"
    elif names.index("USER") < max(index for index, name in enumerate(names) if name == "RUN"):
        yield "something is installed after the user was changed"
    for needed in ("HEALTHCHECK", "WORKDIR"):
        if needed not in names:
            yield f"there is no {needed}"
    for one in instructions:
        if one.name in ("ENTRYPOINT", "CMD", "HEALTHCHECK") and "[" not in one.text:
            yield f"DL3025: {one.name} is not in exec form"
        if one.name == "WORKDIR" and not one.text.startswith("/"):
            yield "DL3000: WORKDIR is relative"
        if one.name == "ADD":
            yield "DL3020: COPY is enough for files"
        if one.name in ("ENV", "ARG") and re.search(r"TOKEN|KEY|PASSWORD|SECRET", one.text):
            yield f"a secret would stay in the image: {one.text}"
        if one.name == "RUN":
            yield from _faults_of_run(one.text)


def _faults_of_run(text: str) -> Iterator[str]:
    if re.search(r"\bsudo\b", text):
        yield "DL3004: sudo"
    if "pip install" in text and "--no-cache-dir" not in text:
        yield "DL3042: pip keeps its cache in the image"
    if "pip install" in text and "-r requirements" not in text:
        yield "DL3013: packages without a pinned version"
    if "apt-get install" in text and not ("--no-install-recommends" in text and "rm -rf /var/lib/apt/lists" in text):
        yield "DL3009, DL3015: apt-get leaves what nobody needs"
