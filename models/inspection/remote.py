"""What a repository of the hub holds before it is downloaded: the list of its files, the headers of its weights."""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub import constants
from huggingface_hub.utils import get_session, hf_raise_for_status

from models.fetching.repository import Repository, RepositoryFile, list_repository
from models.fetching.table import HubFile
from models.fetching.web import WebError, explain, hub_headers, hub_url
from models.inspection.file_headers import TensorHeader, dtypes_of, parse_safetensors
from models.inspection.file_kinds import describe

_FIRST = 100_000  # bytes asked for at first, which most headers fit into
_LONGEST = 100_000_000  # of a header, as the format's own library has it


def repository_lines(name: str) -> Iterator[str]:
    """How large a repository is, what its weights are of and in which number formats; or why that is not known."""
    try:
        repository = list_repository(name)
        weights = [file for file in repository.files if file.name.endswith((".safetensors", ".bin"))]
        total = sum(file.size for file in repository.files)
        yield f"not here yet: {total:,} bytes in {len(repository.files)} files, {len(weights)} of them weights"
        if not all(file.name.endswith(".safetensors") for file in weights):
            yield "pickled weights, which only the whole files tell more about"
            return
        tensors: dict[str, TensorHeader] = {}
        for file in weights:
            tensors |= _remote_header(repository, file)
        yield f"{describe(tensors)}; {len(tensors)} tensors in {dtypes_of(tensors)}"
    except WebError as error:
        yield f"not here yet; {explain(error, what=name, page=f'https://huggingface.co/{name}')}"
    except ValueError:
        yield "a file of weights there has no safetensors header"


def _remote_header(repository: Repository, file: RepositoryFile) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file on the hub. Raises one of `WebError`, and ValueError for another file."""
    url = hub_url(HubFile(repository.name, file.name, revision=repository.commit))
    content = _first_bytes(url, _FIRST)
    length = int.from_bytes(content[:8], "little")
    if not 0 < length <= _LONGEST:
        raise ValueError(f"{file.name} has no header")
    if len(content) < 8 + length:
        content = _first_bytes(url, 8 + length)
    return parse_safetensors(content[8 : 8 + length])[0]


def _first_bytes(url: str, count: int) -> bytes:
    """The beginning of a file, and no more of it also from a server that does not know ranges."""
    headers = {**hub_headers(), "range": f"bytes=0-{count - 1}"}
    content = b""
    with get_session().stream(
        "GET", url, headers=headers, follow_redirects=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    ) as response:
        hf_raise_for_status(response)
        for block in response.iter_bytes(2**14):
            content += block
            if len(content) >= count:
                break
    return content[:count]
