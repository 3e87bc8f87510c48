"""The pile as people leave it: every odd file is named with a reason, the others are taken."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pypdf import PdfWriter

from definitions.documents.command import SHIPPED
from definitions.documents.file_type import name_types, page_refs
from definitions.documents.inventory import read_manifest, take_inventory
from definitions.documents.load import load_page
from definitions.documents.values import Inventory, Page
from ioi_dagster.errors import BadInputError
from ioi_dagster.framing import decode_payload, encode_payload
from ioi_dagster.model.data_class import DataClass
from ioi_dagster.model.refusal import Refusal

PHOTO = SHIPPED / "pages" / "phototest.tif"


def pages_of(folder: Path, only: tuple[str, ...] = ()) -> dict[str, Page]:
    return {ref.id: load_page(ref, folder) for ref in page_refs(name_types(take_inventory(folder, only)))}


def huge_png(path: Path, side: int) -> None:
    """The header of a picture of `side` × `side`, and next to nothing behind it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


def test_every_odd_file_has_its_reason_and_the_good_one_is_read(tmp_path):
    (tmp_path / "good.tif").write_bytes(PHOTO.read_bytes())
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.tif").write_bytes(PHOTO.read_bytes()[:3_000])
    (tmp_path / "cut.jpg").write_bytes((SHIPPED / "book" / "0001.jpg").read_bytes()[:20_000])
    (tmp_path / "misnamed.jpg").write_text("def main():\n    import os\n    return os.getcwd()\n" * 20)
    (tmp_path / "twin.tif").write_bytes(PHOTO.read_bytes())
    (tmp_path / "cut.pdf").write_bytes((SHIPPED / "pages" / "c02-22.pdf").read_bytes()[:900])
    huge_png(tmp_path / "huge.png", 35_000)
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    found = {name: (page.status, page.reason) for name, page in pages_of(tmp_path).items()}
    assert found["good.tif"] == ("ok", "")
    assert found["empty.png"] == ("failed", "the file is empty")
    assert found["twin.tif"] == ("failed", "it has the same content as 'good.tif', which is read instead")
    assert found["huge.png"] == ("failed", "the page has 35,000 × 35,000 pixels; at most 80 million are taken")
    assert found["misnamed.jpg"][1].startswith("it is not a page but: ")
    assert found["loop"] == ("failed", "it is not a regular file")
    for name in ("cut.tif", "cut.jpg", "cut.pdf"):
        assert found[name][0] == "failed", name
        assert found[name][1], name


def test_a_password_is_named_as_the_reason(tmp_path):
    writer = PdfWriter(clone_from=SHIPPED / "pages" / "c02-22.pdf")
    writer.encrypt("open sesame", algorithm="AES-256")
    writer.write(tmp_path / "locked.pdf")
    (page,) = pages_of(tmp_path).values()
    assert (page.status, "password" in page.reason) == ("failed", True)


def test_a_name_that_is_no_text_is_named_as_the_reason(tmp_path):
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/a\xff.tif")).write_bytes(PHOTO.read_bytes())
    inventory = name_types(take_inventory(tmp_path))
    assert Inventory.from_payload(decode_payload(encode_payload(inventory.to_payload()))) == inventory
    ((name, page),) = pages_of(tmp_path).items()
    assert (name, page.reason) == ("a\\xff.tif", "its name is not UTF-8: rename it")


@pytest.mark.parametrize("name", ["a b.tif", "q'u\"o.tif", "new\nline.tif", "emoji 📖.tif", "-rf.tif", "ünïcode.tif"])
def test_a_name_may_be_anything(tmp_path, name):
    (tmp_path / name).write_bytes(PHOTO.read_bytes())
    ((found, page),) = pages_of(tmp_path).items()
    assert found == name
    assert page.ok
    assert Page.from_payload(page.to_payload()) == page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pages:\n  a.png: secret\n", "manifest.yaml:2: unknown data class 'secret'"),
        ("page:\n  a.png: public\n", "manifest.yaml:1: unknown key 'page'"),
        ("pages: [a]\n", "manifest.yaml:1: a mapping is expected here"),
        ("pages:\n  a.png: public\n  a.png: internal\n", "manifest.yaml:3: page 'a.png' is listed twice"),
        ("pages: {a.tif: [public]}", "manifest.yaml:1: a name and a class are expected here"),
        ("pages: {? [a] : public}", "manifest.yaml:1: a name and a class are expected here"),
        ("pages: {a.tif: public}\npages: {b.tif: restricted}", "manifest.yaml:2: 'pages' is given twice"),
        ("pages: {a", "manifest.yaml:1: the manifest is not YAML"),
        ("pages: " + "[" * 20_000, "manifest.yaml: the manifest is nested too deeply"),
        ("pages: {a.tif: public\x00}", "manifest.yaml: the manifest is not YAML"),
    ],
)
def test_a_manifest_that_cannot_be_meant_is_refused_with_its_line(tmp_path, text, expected):
    (tmp_path / "manifest.yaml").write_text(text)
    with pytest.raises(BadInputError) as caught:
        read_manifest(tmp_path / "manifest.yaml")
    assert expected in str(caught.value)


def test_unlisted_pages_are_internal_and_the_run_says_so(tmp_path):
    (tmp_path / "a.tif").write_bytes(PHOTO.read_bytes())
    assert take_inventory(tmp_path).problems == ("there is no manifest.yaml: every page is taken as internal",)
    (tmp_path / "manifest.yaml").write_text("pages: {gone.tif: public}")
    inventory = take_inventory(tmp_path)
    assert inventory.files[0].data_class is DataClass.INTERNAL
    assert inventory.problems == (
        "the manifest names 'gone.tif', which does not exist",
        "'a.tif' is not in the manifest: taken as internal",
    )


def test_the_same_content_is_as_sensitive_as_its_most_sensitive_file(tmp_path):
    for name in ("a.tif", "b.tif"):
        (tmp_path / name).write_bytes(PHOTO.read_bytes())
    (tmp_path / "manifest.yaml").write_text("pages: {a.tif: public, b.tif: restricted}")
    assert [file.data_class for file in take_inventory(tmp_path).files] == [DataClass.RESTRICTED] * 2
    (only,) = take_inventory(tmp_path, ("a.tif",)).files
    assert only.data_class is DataClass.RESTRICTED
    assert any("same content" in problem for problem in take_inventory(tmp_path).problems)


@pytest.mark.parametrize(
    ("name", "why"), [("none", "does not exist"), ("file", "is not a folder"), ("empty", "holds no pages")]
)
def test_a_folder_that_is_none_or_empty_is_refused(tmp_path, name, why):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadInputError, match=why):
        take_inventory(tmp_path / name)


def test_a_run_may_be_limited_to_some_pages(tmp_path):
    for name in ("p2.tif", "p10.tif"):
        Image.open(PHOTO).rotate(len(name)).save(tmp_path / name)
    assert list(pages_of(tmp_path)) == ["p2.tif", "p10.tif"]
    assert list(pages_of(tmp_path, ("p10.tif",))) == ["p10.tif"]
    assert take_inventory(tmp_path, ("x.tif",)).problems[-1] == "asked for 'x.tif', which does not exist"


def test_the_shipped_pile_is_what_its_manifest_says():
    inventory = name_types(take_inventory(SHIPPED))
    assert Inventory.from_payload(inventory.to_payload()) == inventory
    assert [file.file for file in inventory.files if file.problem] == []
    assert {file.file for file in inventory.files if not file.listed} == {"book/0061.jpg", "pages/c02-22.pdf"}
    assert sum(file.data_class is DataClass.RESTRICTED for file in inventory.files) == 3


@given(st.text(max_size=30), st.text(max_size=30))
def test_what_was_refused_is_not_called_failed(code, text):
    page = Page(next(iter(page_refs(Inventory(".", (FILE,), ())))))
    refused = page.refused(Refusal(code, text, "x"))
    assert refused.status == "refused"
    assert page.refused(Refusal("flow.poison_step", text, "x")).status == "failed"


FILE = name_types(take_inventory(SHIPPED, ("pages/phototest.tif",))).files[0]


@pytest.mark.parametrize(
    ("mode", "values", "expected"),
    [("I;16", (0, 65_535), (0, 255)), ("I", (0, 200), (0, 200)), ("F", (0.0, 1.0), (0, 255)), ("F", (0, 510), (0, 1))],
)
def test_deep_grey_pictures_are_neither_black_nor_white(tmp_path, mode, values, expected):
    picture = Image.new(mode, (2, 1))
    for x, value in enumerate(values):
        picture.putpixel((x, 0), value)
    picture.resize((200, 100), Image.Resampling.NEAREST).save(tmp_path / "deep.tif")
    (page,) = pages_of(tmp_path).values()
    with Image.open(io.BytesIO(page.image)) as shown:
        grey = shown.convert("L")
        found = grey.getpixel((10, 50)), grey.getpixel((190, 50))
    assert found == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("kind", ["gif", "png", "tiff", "webp"])
def test_each_frame_of_a_moving_picture_is_a_page(tmp_path, kind):
    frames = [Image.new("RGB", (40, 40), (grey, grey, grey)) for grey in (0, 128, 255)]
    frames[0].save(tmp_path / f"three.{kind}", save_all=True, append_images=frames[1:])
    found = pages_of(tmp_path)
    assert list(found) == [f"three.{kind}#page={number}" for number in (1, 2, 3)]
    greys = [Image.open(io.BytesIO(page.image)).convert("L").getpixel((20, 20)) for page in found.values()]
    assert greys == pytest.approx([0, 128, 255], abs=3)


def test_a_photograph_with_a_second_picture_behind_it_is_one_page_and_the_report_says_so(tmp_path):
    frames = [Image.open(PHOTO).convert("RGB"), Image.new("RGB", (60, 40), "white")]
    frames[0].save(tmp_path / "album.jpg", "MPO", save_all=True, append_images=frames[1:])
    (tmp_path / "manifest.yaml").write_text("pages: {album.jpg: public}")
    inventory = name_types(take_inventory(tmp_path))
    assert inventory.problems == ("'album.jpg' holds 2 pictures: the first is read",)
    ((name, page),) = pages_of(tmp_path).items()
    assert (name, page.width, page.height) == ("album.jpg", *frames[0].size)


def test_a_folder_within_that_cannot_be_read_is_a_page_that_says_so(tmp_path, monkeypatch):
    (tmp_path / "good.tif").write_bytes(PHOTO.read_bytes())
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refusing(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    inventory = take_inventory(tmp_path)
    assert [(file.file, file.problem) for file in inventory.files] == [
        ("good.tif", ""),
        ("locked", "the folder cannot be read"),
    ]
