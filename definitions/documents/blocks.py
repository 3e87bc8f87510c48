"""The AI blocks of the example: thin wrappers, loaded once per replica. A page that is not `ok` passes through."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from definitions.documents import facing_page, language, model, reading, upright
from definitions.documents.values import Page
from ioi_dagster.model.block import Payload


class _PageBlock:
    """One page in, one page out. A picture that breaks the model is a failed page; the block itself lives on."""

    work: Callable[[Page], Page]

    def load(self) -> None:
        model.warm_up()

    def unload(self) -> None:
        """The models are shared by the blocks of a process and go with it."""

    def invoke(self, batch: Sequence[Payload]) -> Sequence[Payload]:
        return [self._one(payload) for payload in batch]

    def _one(self, payload: Payload) -> Payload:
        page = Page.from_payload(payload)
        if not page.ok:
            return payload
        try:
            return type(self).work(page).to_payload()
        except (ValueError, OSError, RuntimeError) as error:
            return page.failed(f"the page could not be processed: {error}").to_payload()


class SetUpright(_PageBlock):
    work = staticmethod(upright.set_upright)


class ReadLines(_PageBlock):
    work = staticmethod(reading.read_lines)


class TrimFacingPage(_PageBlock):
    work = staticmethod(facing_page.trim_facing_page)

    def load(self) -> None:
        """Geometry only."""


class NameLanguages(_PageBlock):
    work = staticmethod(language.name_languages)

    def load(self) -> None:
        language.name_languages(_NOTHING)


_NOTHING = Page.from_payload(
    Payload(
        {
            "ref": {
                "id": "",
                "file": "",
                "number": 1,
                "kind": "",
                "digest": "",
                "data_class": "public",
                "listed": False,
                "duplicate_of": "",
                "problem": "",
            },
            "width": 0,
            "height": 0,
            "turn": 0,
            "lines": [],
            "trimmed": [],
            "languages": [],
            "status": "ok",
            "reason": "",
        }
    )
)
"""A page without anything, to load the language models with."""
