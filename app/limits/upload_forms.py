"""How gradio reads uploads, within limits: the form, and how far each upload has come."""

from __future__ import annotations

from contextvars import ContextVar
from pathlib import Path

from gradio.route_utils import FileUploadProgress, GradioMultiPartParser, GradioUploadFile
from starlette.datastructures import FormData

from app.limits.refusal import Refused

# That the request which is served now may bring; by default gradio's own limit, for a server without our layer.
FILES_OF_A_FORM: ContextVar[int] = ContextVar("FILES_OF_A_FORM", default=1000)
PROGRESSES = 256  # that are kept: of uploads which nobody asks about gradio would keep them for ever


class FormOfFiles(GradioMultiPartParser):
    """A form of files alone, and of few: gradio keeps other fields in memory, whatever their size.

    Files of a form that is refused or ends too early are deleted at once.
    """

    def on_headers_finished(self) -> None:
        """The next part begins. Raises Refused for one that is no file, and for one too many."""
        super().on_headers_finished()
        if self._current_part.file is None or self._current_part.field_name != "files":
            raise Refused(400, "The form of an upload holds nothing but files.")
        limit = FILES_OF_A_FORM.get()
        if self._current_files > limit:
            raise Refused(413, f"Too many files at once; the limit is {limit}.")
        (
            self._current_part.file.filename or ""
        ).encode()  # half characters, which a form's charset may bring, name no file

    async def parse(self) -> FormData:
        """As gradio's. Raises Refused for a boundary, a charset or a name that can't be used."""
        whole: set[str] = set()
        try:
            form = await super().parse()
            whole = {value.file.name for _, value in self.items if isinstance(value, GradioUploadFile)}
            return form
        except ValueError as error:
            raise Refused(400, "The form of an upload can't be read.") from error
        finally:
            for file in self._files_to_close_on_error:
                if file.name not in whole:
                    file.close()
                    Path(file.name).unlink(missing_ok=True)


class UploadProgress(FileUploadProgress):
    """How far the uploads are, for as many as go on at once; the oldest are forgotten."""

    def track(self, upload_id: str) -> None:
        super().track(upload_id)
        while len(self._statuses) > PROGRESSES:
            self.stop_tracking(next(iter(self._statuses)))

    async def is_tracked(self, upload_id: str) -> bool:
        """Wait until an upload has this name; nothing stays of names that none has."""
        try:
            return await super().is_tracked(upload_id)
        finally:
            if upload_id not in self._statuses:
                self._signals.pop(upload_id, None)

    def stop_tracking(self, upload_id: str) -> None:
        super().stop_tracking(upload_id)
        self._signals.pop(upload_id, None)
