"""A whole repository of the hub, into the hub client's own cache.

The hub lists the files with their sizes and sha256. The large ones (git-lfs) come through our own `download`, each
under the name that the client's cache gives it; the client then fetches the small ones, makes its links, and finds
nothing left to do. So every program that uses the cache finds the files, a cut costs nothing, every byte is checked.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm

from models.errors import DownloadFailed
from models.fetching.hashes import git_blob_hash, is_git_hash, sha256_of
from models.fetching.table import HubFile
from models.fetching.transfer import OnBytes, download, part_size
from models.fetching.web import RemoteFile, check_proxies, hub_headers, hub_url

_MODEL_FILES = ("*.json", "*.model", "*.safetensors", "*.txt", "*.tiktoken")


class _NoBar(tqdm):
    """What the client draws its bars with: nothing, as there is one bar over all bytes already."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **{**settings, "disable": True})


@dataclass(frozen=True)
class RepositoryFile:
    """A file as the hub lists it: `sha256` of a large one, `blob_id` (git's hash) of a small one."""

    name: str
    size: int
    sha256: str | None
    blob_id: str


@dataclass(frozen=True)
class Repository:
    """What of a repository is needed, at the commit that its main branch has now."""

    name: str
    commit: str
    files: tuple[RepositoryFile, ...]

    @property
    def _folder(self) -> Path:
        return Path(constants.HF_HUB_CACHE).expanduser() / repo_folder_name(repo_id=self.name, repo_type="model")

    @property
    def folder(self) -> Path:
        """The folder in the cache that has the files under their names, once they have been fetched."""
        return self._folder / "snapshots" / self.commit

    def place(self, file: RepositoryFile) -> Path:
        """Where a file is in the cache once it has been fetched."""
        return self.folder / file.name

    def blob(self, file: RepositoryFile) -> Path:
        """Where the cache keeps a large file's content."""
        return self._folder / "blobs" / str(file.sha256)

    def is_here(self, file: RepositoryFile) -> bool:
        """Whether the cache has a file in its full size under its name; content without its link is found by nobody."""
        place = self.place(file)
        return place.is_file() and place.stat().st_size == file.size

    @property
    def missing(self) -> list[RepositoryFile]:
        """The files that the cache does not have."""
        return [file for file in self.files if not self.is_here(file)]

    def bytes_to_come(self) -> int:
        """How much is still to be fetched; what an earlier start left behind is not."""
        return sum(file.size - self._came(file) for file in self.missing)

    def _came(self, file: RepositoryFile) -> int:
        if file.sha256 is None:
            return 0
        blob = self.blob(file)
        return min(file.size, blob.stat().st_size) if blob.is_file() else part_size(blob)


def list_repository(name: str) -> Repository:
    """Ask the hub which files of a repository are needed. Raises one of `WebError`, or DownloadFailed."""
    check_proxies()
    api = HfApi()
    commit = str(api.repo_info(name, timeout=constants.HF_HUB_ETAG_TIMEOUT).sha)
    listed = [
        RepositoryFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else None, entry.blob_id)
        for entry in api.list_repo_tree(name, recursive=True, revision=commit)
        if isinstance(entry, RepoFile)
    ]
    return Repository(name, commit, tuple(needed(listed)))


def cached_folder(name: str) -> Path | None:
    """The folder of a repository that the cache holds whole, without asking the hub; None where it does not."""
    try:
        return Path(snapshot_download(name, allow_patterns=list(_MODEL_FILES), local_files_only=True))
    except FileNotFoundError:  # the client's LocalEntryNotFoundError is one
        return None


def needed(files: Sequence[RepositoryFile]) -> list[RepositoryFile]:
    """Configuration, tokenizer and weights: pickled weights only where there are no safetensors of the same."""
    found = [file for file in files if any(fnmatch.fnmatch(file.name, pattern) for pattern in _MODEL_FILES)]
    if not any(file.name.endswith(".safetensors") for file in found):
        found += [file for file in files if file.name.endswith(".bin")]
    return found


def fetch_repository(repository: Repository, *, on_bytes: OnBytes = lambda _: None) -> dict[str, str]:
    """Bring all files of a repository into the cache; the sha256 of each large one that was fetched, by its name.

    Raises one of `WebError` or DownloadFailed; what has come stays.
    """
    fetched = {}
    for file in repository.missing:
        if file.sha256 is not None:
            url = hub_url(HubFile(repository.name, file.name, revision=repository.commit))
            remote = RemoteFile(url=url, headers=hub_headers(), size=file.size, sha256=file.sha256)
            lock = _lock(repository, file)
            lock.parent.mkdir(parents=True, exist_ok=True)
            _discard_damaged(repository.blob(file), file.sha256)
            fetched[file.name] = download(remote, repository.blob(file), on_bytes=on_bytes, lock=lock)
    small = [file for file in repository.missing if file.sha256 is None]
    _fetch_small(repository, small)
    on_bytes(sum(file.size for file in small))
    return fetched


def _fetch_small(repository: Repository, files: Sequence[RepositoryFile]) -> None:
    """What is left, by the hub's client, which looks at no content. Raises DownloadFailed for one damaged twice."""
    for tries_left in (1, 0):
        snapshot_download(repository.name, allow_patterns=[file.name for file in repository.files], tqdm_class=_NoBar)
        damaged = [file for file in files if not _is_as_listed(repository.place(file), file)]
        for place in map(repository.place, damaged):
            place.resolve().unlink()
            place.unlink(missing_ok=True)  # the link to it
        if not damaged:
            return
        if not tries_left:
            names = ", ".join(file.name for file in damaged)
            raise DownloadFailed(
                f"{repository.name}: {names} came damaged twice: its git hash is not what the hub announces. Nothing "
                "of it was kept; start again later, or from another network."
            )


def _is_as_listed(place: Path, file: RepositoryFile) -> bool:
    """Whether a small file's content is what the hub lists, as far as a mirror lists git's hashes.

    One that is not there belongs to a commit that came since the list; the next start lists again.
    """
    return not (is_git_hash(file.blob_id) and place.is_file()) or git_blob_hash(place) == file.blob_id


def _discard_damaged(blob: Path, sha256: str) -> None:
    """Remove content that is not what its name says: who deletes a damaged file in a snapshot deletes a link alone."""
    if blob.is_file() and sha256_of(blob) != sha256:
        blob.unlink()


def _lock(repository: Repository, file: RepositoryFile) -> Path:
    """The hub client's own lock for a file, so that it waits for us, and we for it."""
    folder = repo_folder_name(repo_id=repository.name, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / ".locks" / folder / f"{file.sha256}.lock"
