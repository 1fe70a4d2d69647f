"""What a configuration needs, what of it is here, and what is to be fetched from where: known before a byte moves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from huggingface_hub import constants

from models.errors import DownloadFailed
from models.family_config import FamilyConfig
from models.fetching.checkpoints import CHECKPOINTS_DIR, DESCRIBING, NeededFile, is_placeholder, meant, needed_files
from models.fetching.repository import Repository, cached_folder, list_repository
from models.fetching.sources import remote_of
from models.fetching.table import Address, HubFile, ReleasedFile, find_released, remark_on, terms_of
from models.fetching.transfer import existing_folder, part_size
from models.fetching.web import RemoteFile, WebError, explain, page_of, uses_mirror

State = Literal["here", "to fetch", "missing"]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One file or repository that a key names. `problem` says why a missing one can't be fetched.

    `path` is where it is or will be; `released` is its row of the table, `remote` or `repository` what a server says
    about it, `others` are addresses that were not asked. Sizes are in bytes: of all that is needed, and of what has not
    come yet.
    """

    key: str
    value: str
    state: State
    path: Path
    released: ReleasedFile | None = None
    remote: RemoteFile | None = None
    others: tuple[Address, ...] = ()
    repository: Repository | None = None
    terms: str = ""
    accept_at: str = ""
    remark: str = ""
    problem: str = ""

    @property
    def size(self) -> int:
        """All its bytes, as far as they are known."""
        if self.repository is not None:
            return sum(file.size for file in self.repository.files)
        if self.path.is_file():
            return self.path.stat().st_size
        return (self.remote and self.remote.size) or (self.released and self.released.size) or 0

    @property
    def missing_bytes(self) -> int:
        """The size of the files that are not here whole, with what has come of them."""
        if self.state != "to fetch":
            return 0
        return self.size if self.repository is None else sum(file.size for file in self.repository.missing)

    @property
    def bytes_to_come(self) -> int:
        """What is still to be fetched."""
        if self.state != "to fetch":
            return 0
        return self.size - part_size(self.path) if self.repository is None else self.repository.bytes_to_come()


@dataclass(frozen=True)
class Plan:
    """Everything that one configuration needs."""

    name: str
    items: tuple[Item, ...]

    @property
    def missing(self) -> list[Item]:
        """What can't be fetched, each with its problem."""
        return [item for item in self.items if item.state == "missing"]

    def lines(self, *, with_problems: bool = True) -> Iterator[str]:
        """The plan as text: every file with its state, the terms, and how much is to come.

        Without problems where they are told at the end of the download, which is then not the second time.
        """
        yield f"{self.name} needs:"
        for item in self.items:
            size = gib(item.size) if item.size else ""
            yield f"  {item.state:<8}  {item.key:<14}  {item.value:<42} {size:>10}"
            if item.state == "to fetch":
                source = f"{constants.ENDPOINT}/{item.repository.name}" if item.repository else item.remote
                yield f"{'':10}  from {source if isinstance(source, str) else source and source.url}"
                yield f"{'':10}  to   {item.path}"
            if item.remark:
                yield f"{'':10}  note: {item.remark}"
            if item.problem and with_problems:
                yield f"{'':10}  {item.problem}"
        for terms, (values, page) in self._terms().items():
            yield f"Terms: {terms} ({', '.join(values)})" + (f"; to be accepted at {page}" if page else "")
        total = sum(item.bytes_to_come for item in self.items)
        if not total:
            if any(item.state == "to fetch" for item in self.items):
                yield "The hub's cache has its content; that is checked, and comes again where it is damaged."
            else:
                yield "Nothing more can be fetched." if self.missing else "Everything is here."
            return
        begun = sum(item.missing_bytes for item in self.items) - total
        earlier = f" ({gib(begun)} of it came earlier)" if begun else ""
        yield f"To fetch: {gib(total)}{earlier}. Free: " + ", ".join(
            f"{gib(free)} in {folder}" for folder, (_, free) in self.room().items()
        )

    def _terms(self) -> Mapping[str, tuple[list[str], str]]:
        found: dict[str, tuple[list[str], str]] = {}
        for item in self.items:
            if item.terms:
                values, page = found.get(item.terms, ([], item.accept_at))
                found[item.terms] = ([*values, item.value], page or item.accept_at)
        return found

    def room(self) -> dict[Path, tuple[int, int]]:
        """Folder -> bytes to come and bytes free there, one folder for each file system."""
        needed: dict[int, tuple[Path, int]] = {}
        for item in self.items:
            if item.bytes_to_come:
                folder = existing_folder(item.path)
                device = os.stat(folder).st_dev
                first, before = needed.get(device, (folder, 0))
                needed[device] = (first, before + item.bytes_to_come)
        return {folder: (size, shutil.disk_usage(folder).free) for folder, size in needed.values()}

    def check_room(self) -> None:
        """Raises DownloadFailed where a disk has too little room."""
        for folder, (size, free) in self.room().items():
            if size > free:
                cache = " Set HF_HUB_CACHE to use another disk." if _is_under(folder, hub_cache()) else ""
                raise DownloadFailed(
                    f"{self.name}: {gib(size)} are to be fetched, but {folder} has {gib(free)} free. Make room.{cache}"
                )


def make_plan(config: FamilyConfig) -> Plan:
    """Look which files of a configuration are here, and ask servers about the others. Downloads nothing."""
    return Plan(config.name or config.source.stem, tuple(_item(file, config) for file in needed_files(config)))


def _item(file: NeededFile, config: FamilyConfig) -> Item:
    released = None if config.is_toy else find_released(file.value)
    item = Item(key=file.key, value=file.value, state="missing", path=file.path or Path(file.value), released=released)
    if file.path is not None:
        return replace(item, state="here", remark=file.remark)
    if is_placeholder(file.value):
        return replace(item, problem=f"This is a placeholder; set {file.key} to the real path. {file.hint}")
    if file.problem:
        return replace(item, problem=f"{file.problem}.")
    if released is not None:
        path = Path(file.value).expanduser()
        path = path if path.is_absolute() else CHECKPOINTS_DIR / path
        return _released_item(replace(item, path=path, terms=released.terms), released)
    if file.is_hub_id:
        return _repository_item(item, file.value)
    if found := meant(file.value, config):
        return replace(item, problem=f"{file.value} is {found}")
    return replace(item, problem=f"Not found beside the YAML or in {CHECKPOINTS_DIR}. {file.hint}")


def _released_item(item: Item, released: ReleasedFile) -> Item:
    """A file of the table, at the first of its addresses that has it."""
    addresses = released.addresses
    if uses_mirror():
        addresses = tuple(sorted(addresses, key=lambda address: not isinstance(address, HubFile)))
    by_hand = f"Get {released.by_hand} with a browser, and put it at {item.path}." if released.by_hand else ""
    problems = []
    for number, address in enumerate(addresses, 1):
        try:
            remote = remote_of(released, address)
        except WebError as error:
            problems.append(explain(error, what=item.value, page=page_of(address)))
        else:
            remark = f"{' '.join(problems)} So the next address is taken" if problems else ""
            return replace(item, state="to fetch", remote=remote, others=addresses[number:], remark=remark)
    failing = len(problems) - 1
    others = f" {failing} other address{'es fail' if failing > 1 else ' fails'} as well." if failing > 0 else ""
    return replace(item, problem=f"{''.join(problems[:1])}{others} {by_hand}".strip())


def _repository_item(item: Item, name: str) -> Item:
    page = f"https://huggingface.co/{name}"
    terms, is_gated = terms_of(name)
    item = replace(item, terms=terms, accept_at=page if is_gated else "", remark=remark_on(name), path=hub_cache())
    try:
        repository = list_repository(name)
    except WebError as error:
        if (folder := cached_folder(name)) is not None:
            return replace(item, state="here", path=folder)
        return replace(item, problem=explain(error, what=name, page=page))
    names = {file.name for file in repository.files}
    if names.isdisjoint(DESCRIBING) or not any(name.endswith((".safetensors", ".bin")) for name in names):
        lacks = "config.json" if names.isdisjoint(DESCRIBING) else "weights in safetensors or .bin files"
        return replace(
            item, problem=f"{name} has no {lacks}, so it is no model as this program reads them; see {page}."
        )
    return replace(item, state="to fetch" if repository.missing else "here", repository=repository)


def hub_cache() -> Path:
    """The folder in which the hub's client keeps repositories."""
    return Path(constants.HF_HUB_CACHE).expanduser()


def gib(size: int) -> str:
    """A size for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def _is_under(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents or path in folder.parents
