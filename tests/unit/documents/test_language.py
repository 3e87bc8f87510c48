"""Naming languages: sentence by sentence, however the lines are broken."""

from __future__ import annotations

import pytest

from definitions.documents.language import name_languages
from definitions.documents.values import Line, Page, PageRef
from ioi_dagster.model.data_class import DataClass

BOX = ((0.0, 0.0), (9.0, 0.0), (9.0, 2.0), (0.0, 2.0))
EUROTEXT = """The (quick) [brown] {fox} jumps!
Over the $43,456.78 <lazy> #90 dog
& duck/goose, as 12.5% of E-mail
from aspammer@website.com is spam.
Der schnelle" braune Fuchs springt
über den faulen Hund. Le renard brun
«rapide» saute par-dessus le chien
paresseux. La volpe marrone rapida
salta sopra il cane pigro. El zorro
marrón rápido salta sobre el perro
perezoso. A raposa marrom rápida
salta sobre o cão preguiçoso."""
PROSE = "This is a line of running text that goes on and on without any full stop in it"


@pytest.mark.parametrize(
    ("lines", "codes"),
    [
        (EUROTEXT.split("\n"), {"en", "de", "fr", "it", "es", "pt"}),
        ([PROSE] * 40, {"en"}),
        (["No. 7", "12", "..."], set()),
        ([], set()),
    ],
)
def test_each_language_of_a_page_is_named_and_no_other(lines, codes):
    ref = PageRef("p", "p", 1, "png", "d", DataClass.PUBLIC, True)
    named = name_languages(Page(ref, lines=tuple(Line(text, 0.9, BOX) for text in lines))).languages
    assert {code for code, _ in named} == codes
    assert [share for _, share in named] == sorted((share for _, share in named), reverse=True)
    assert sum(share for _, share in named) <= 1.01
