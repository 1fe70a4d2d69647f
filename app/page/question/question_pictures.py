"""What the pictures in the text box become: read, cut out, drawn, taken from the conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from PIL import Image

from app.page.boxes.box_tool import box_of, tool_value
from app.page.handlers import Handlers
from app.page.notices import notice_of
from app.page.page_state import PageState
from app.page.question.box import QuestionBox, renamed, replaced
from app.page.view import View


class QuestionPictures:
    """The listeners. `new_scene` draws a picture, where there is a button for that."""

    def __init__(self, handlers: Handlers, new_scene: Callable[[], Image.Image] | None = None) -> None:
        self._handlers, self._attachments = handlers, handlers.attachments
        self._new_scene = new_scene

    def new_with_picture(self, page: PageState) -> View:
        """New chat about the picture that this one is about now; what was typed stays."""
        picture = page.session.picture_before(len(page.session.exchanges))
        view = self._handlers.reset(page)
        if picture is None:
            return view
        attached = self._attached(page, self._attachments.file_of(picture))
        return view._replace(tool=attached.tool | {"clear": True}, files=attached.files)

    def attach(self, page: PageState, value: dict[str, Any] | None) -> View:
        """Files were added or removed: refuse bad ones now, and show the box tool the image of the next question.

        What the page had to say before is outdated then. Removing a refused file triggers this once
        more; the reason for which it was refused must then stay.
        """
        files = value["files"] if value else []
        found = self._attachments.take(page, files, self._handlers.models.of(page).info)
        shown = renamed(found.renamed) if found.renamed else gr.skip()
        notice = notice_of(page, found.problem) if found.problem or found.is_new else gr.skip()
        if found.pictures is None:
            return View(notice=notice, files=shown)
        picture = found.pictures[-1] if found.pictures else page.picture
        return View(notice=notice, tool=tool_value(picture, attached=found.pictures), files=shown)

    def crop(self, page: PageState, event: gr.EventData) -> View:
        """A part of a picture becomes the picture of the next question, in place of what is attached."""
        picture, box = page.pictures().get(str(event.key)), box_of({"box": event.box})
        if picture is None or box is None:
            return View()
        left, top, right, bottom = box.pixels(*picture.image.size)
        area = (left, top, max(right, left + 1), max(bottom, top + 1))
        part = self._attachments.scratch.save(lambda: picture.image.crop(area), name="part")
        return self._attached(page, str(part))

    def new_scene(self, page: PageState) -> View:
        """Draw a fresh scene and attach it in place of what is attached."""
        if self._new_scene is None:
            return View()
        return self._attached(page, str(self._attachments.scratch.save(self._new_scene, name="scene")))

    def _attached(self, page: PageState, path: str) -> View:
        """One picture in place of what is attached. gradio tells of no change where one file replaces another, so the
        stage is told here."""
        pictures = page.attach([path])
        return View(notice="", tool=tool_value(pictures[-1], attached=pictures), files=replaced([path]))

    def connect(self, bridge: gr.HTML, box: QuestionBox, page: gr.State, quick: dict[str, Any]) -> None:
        """`quick`: how the page's short listeners are called."""
        bridge.attach(self.attach, [page, box.question], trigger_mode="always_last", **quick)
        bridge.new_with_picture(self.new_with_picture, [page], **quick)
        bridge.crop(self.crop, [page], **quick)
