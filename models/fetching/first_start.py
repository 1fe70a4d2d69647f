"""A repository that a model needs and that is not here yet: fetched while it is loaded, after saying what comes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import tqdm

from models.errors import DownloadFailed
from models.fetching.repository import fetch_repository, list_repository
from models.fetching.table import remark_on, terms_of
from models.fetching.transfer import existing_folder
from models.memory.serving import size


def download_repository(name: str) -> Path:
    """The folder of a repository in the hub's cache, where it is brought to if it is not there whole.

    What is to come is said on stderr first, with a bar as it comes. Raises one of `WebError`, and DownloadFailed also
    for a disk with too little room.
    """
    repository = list_repository(name)
    if not repository.missing:
        return repository.folder
    count, cache = repository.bytes_to_come(), Path(constants.HF_HUB_CACHE).expanduser()
    free = shutil.disk_usage(existing_folder(cache)).free
    if count > free:
        raise DownloadFailed(
            f"{name}: {size(count)} are to be fetched, but {cache} has {size(free)} free. Make room, or set "
            "HF_HUB_CACHE to use another disk."
        )
    terms, _ = terms_of(name)
    print(
        f"{name} is not here yet: {size(count)} come from {constants.ENDPOINT}/{name} to {cache} ({size(free)} free)."
        + f" Terms: {terms}." * bool(terms)
        + f" Note: {remark_on(name)}." * bool(remark_on(name)),
        file=sys.stderr,
    )
    with tqdm(total=count, desc="Fetching", unit="B", unit_scale=True, unit_divisor=1024) as bar:
        fetch_repository(repository, on_bytes=bar.update)
    return repository.folder
