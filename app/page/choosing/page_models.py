"""Which model answers on a page: the one that there is, or the one of the library that its visitor chose."""

from __future__ import annotations

from app.library.leased import LibraryModel
from app.library.library import ModelLibrary
from app.page.page_state import PageState
from engine.chat_model import ChatModel


class PageModels:
    """`default` answers where nothing was chosen; without a `library` there is nothing to choose."""

    def __init__(self, default: ChatModel, library: ModelLibrary | None = None) -> None:
        self._default = default
        self._library = library

    @property
    def default(self) -> ChatModel:
        """The one that `/chat` asks."""
        return self._default

    @property
    def default_name(self) -> str:
        """Of the default model in the library; empty without one."""
        return self._default.name if isinstance(self._default, LibraryModel) else ""

    @property
    def has_choice(self) -> bool:
        """Whether a visitor can choose."""
        return self._library is not None

    def of(self, page: PageState) -> ChatModel:
        """The model of a page, whether or not it is loaded now."""
        return self._default if self._library is None or not page.model else self._library.model(page.model)

    def rival_of(self, page: PageState) -> ChatModel | None:
        """The model that answers beside the page's own, if two are compared, whether or not it is loaded now."""
        if page.rival is None:
            return None
        return self._default if self._library is None or not page.rival.model else self._library.model(page.rival.model)

    def ready(self, page: PageState) -> ChatModel:
        """The model of a page, which can be asked now. Raises NotLoaded, after which it is being loaded."""
        model = self.of(page)
        self._want(page, model)
        model.neutralise("")
        return model

    def ready_rival(self, page: PageState) -> ChatModel | None:
        """As `ready`, for `rival_of`."""
        model = self.rival_of(page)
        if model is not None:
            self._want(page, model)
            model.neutralise("")
        return model

    def _want(self, page: PageState, model: ChatModel) -> None:
        """Have the library load the model. Where two are compared, it unloads neither to make room for the other."""
        if self._library is not None and page.rival is not None and isinstance(model, LibraryModel):
            both = [one.name for one in (self.of(page), self.rival_of(page)) if isinstance(one, LibraryModel)]
            self._library.want(model.name, keeping=both)
