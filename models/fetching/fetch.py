"""The download of a plan: one bar over all bytes, then one look at every hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub.utils import tqdm

from models.errors import DownloadFailed, MiniVLMError
from models.fetching.checkpoints import CHECKPOINTS_DIR
from models.fetching.hashes import HashLedger, git_blob_hash
from models.fetching.plan import Item, Plan
from models.fetching.repository import Repository, fetch_repository
from models.fetching.sources import Sources
from models.fetching.table import ReleasedFile
from models.fetching.transfer import OnBytes
from models.fetching.web import WebError, explain

Report = Callable[[str], None]


def fetch(plan: Plan, *, report: Report = print, on_bytes: OnBytes | None = None) -> None:
    """Fetch all that can be, check what is here, and raise DownloadFailed for what is still missing.

    `report` is given lines: hashes that are not the expected ones. `on_bytes` is given the bytes as they come, for a
    bar of the caller's own; without it there is one on stderr.
    """
    plan.check_room()
    problems, notes = list[str](), list[str]()
    ledger = HashLedger(CHECKPOINTS_DIR / ".hashes.json")
    total = sum(item.missing_bytes for item in plan.items)
    with _bar(total, "Fetching", shown=bool(total) and on_bytes is None) as bar:
        items = [_fetched(item, ledger, on_bytes or bar.update, problems, notes) for item in plan.items]
    unknown = sum(path.stat().st_size for item in items for path in _large(item) if ledger.known(path) is None)
    with _bar(unknown, "Checking", shown=unknown > 2**28 and on_bytes is None) as bar:
        for item in items:
            _check(item, ledger, bar.update, problems, notes)
    for line in notes:
        report(f"note: {line}")
    problems += _grouped(plan.missing)
    if problems:
        raise DownloadFailed(f"{plan.name} is not complete: {' '.join(problems)}")


def _grouped(missing: Sequence[Item]) -> list[str]:
    """The problems of what can't be fetched; one that several share is said once, of all of them."""
    names: dict[str, list[str]] = {}
    for item in missing:
        names.setdefault(item.problem.removeprefix(item.value), []).append(item.value)
    return [f"{', '.join(values)}{'' if rest[:1] in ' :' else ': '}{rest}" for rest, values in names.items()]


def _bar(total: int, what: str, *, shown: bool) -> tqdm:
    return tqdm(total=total, desc=what, unit="B", unit_scale=True, unit_divisor=1024, disable=not shown, leave=True)


def _fetched(item: Item, ledger: HashLedger, on_bytes: OnBytes, problems: list[str], notes: list[str]) -> Item:
    """The item, with the address that has served it; what went wrong is added to `problems`, the rest to `notes`."""
    if item.state != "to fetch":
        return item
    try:
        return _fetch_item(item, ledger, on_bytes, notes)
    except WebError as error:
        problems.append(explain(error, what=item.value, page=_page(item)))
    except MiniVLMError as error:
        problems.append(str(error))
    return item


def _fetch_item(item: Item, ledger: HashLedger, on_bytes: OnBytes, notes: list[str]) -> Item:
    if item.repository is not None:
        fetched = fetch_repository(item.repository, on_bytes=on_bytes)
        for file in item.repository.files:
            if file.name in fetched:
                ledger.remember(item.repository.place(file), fetched[file.name])
    elif item.remote is not None:
        sources = Sources(item.remote, item.others, item.released, item.value)
        served, found = sources.fetch(item.path, on_bytes)
        ledger.remember(item.path, found)
        if sources.problems:
            notes.append(f"{item.path} came from {served.url}. Before that: {' '.join(sources.problems)}")
        return replace(item, remote=served)
    return item


def _page(item: Item) -> str:
    if item.repository is not None:
        return f"https://huggingface.co/{item.repository.name}"
    return item.remote.url.partition("/resolve/")[0] if item.remote is not None else ""


def _large(item: Item) -> list[Path]:
    """The files of an item whose sha256 is known to somebody, as far as they are here."""
    if item.repository is not None:
        paths = [item.repository.place(file) for file in item.repository.files if file.sha256 is not None]
    else:
        paths = [item.path] if item.released is not None else []
    return [path for path in paths if path.is_file()]


def _check(item: Item, ledger: HashLedger, on_bytes: OnBytes, problems: list[str], notes: list[str]) -> None:
    """Look at the hashes of what is here: damage is a problem, what may be another version a note."""
    if item.repository is not None:
        _check_repository(item.repository, ledger, on_bytes, problems, notes)
    elif item.released is not None and item.path.is_file():
        found = ledger.sha256(item.path, on_bytes)
        notes += [line] if (line := difference(item.released, item.path, found)) else []


def difference(released: ReleasedFile, path: Path, found: str) -> str:
    """What is to be said of a file with this sha256; nothing where it is the expected one."""
    if found == released.sha256:
        return ""
    if released.sha256 is None:
        return f"{path}: its sha256 is {found}; which it should be is not known."
    if older := next((upload.what for upload in released.older if upload.sha256 == found), ""):
        return f"{path}: this is {older} (sha256 {found}); the newest has sha256 {released.sha256}."
    return (
        f"{path}: its sha256 is {found}, but {released.sha256} was expected. It is used all the same; if it does not "
        "load, delete it and start again."
    )


def _check_repository(
    repository: Repository, ledger: HashLedger, on_bytes: OnBytes, problems: list[str], notes: list[str]
) -> None:
    for file in repository.files:
        path = repository.place(file)
        if not path.is_file():
            continue
        if file.sha256 is not None:
            if (found := ledger.sha256(path, on_bytes)) != file.sha256:
                problems.append(
                    f"{path}: its sha256 is {found}, but the hub says {file.sha256}, so it is damaged. Delete it and "
                    "start again."
                )
        elif (found := git_blob_hash(path)) != file.blob_id:  # people edit a config.json
            notes.append(
                f"{path}: its git hash is {found}, but the hub says {file.blob_id}. Delete it to fetch it again."
            )
