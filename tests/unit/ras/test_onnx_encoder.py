"""An encoder in a folder gives a vector for each text, and says what is missing where it cannot."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from ioi_dagster.adapters.encoder.onnx import OnnxEncoder
from ioi_dagster.errors import BadInputError
from ioi_dagster.ras.matching.encoder import BlendedIndex
from ioi_dagster.ras.matching.entry import Entry

VECTORS = {"[UNK]": (0.0, 0.0, 0.1), "harbour": (1.0, 0.0, 0.0), "quay": (1.0, 0.0, 0.0), "loaf": (0.0, 1.0, 0.0)}


def field(number: int, value: int | bytes | str) -> bytes:
    """Of a protocol buffer: a number below 128, or bytes."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    data = value.encode() if isinstance(value, str) else value
    size = bytes([len(data) & 127 | 128, len(data) >> 7]) if len(data) > 127 else bytes([len(data)])
    return bytes([number << 3 | 2]) + size + data


def value_info(name: str, kind: int, axes: int) -> bytes:
    shape = b"".join(field(1, field(2, f"{name}_{axis}")) for axis in range(axes))
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, shape)))


def model(ids: str = "input_ids") -> bytes:
    """`onnx.proto` by hand: a table of vectors, of which the tokens' rows are gathered."""
    numbers = [number for vector in VECTORS.values() for number in vector]
    table = field(1, len(VECTORS)) + field(1, 3) + field(2, 1) + field(8, "table")
    table += field(9, struct.pack(f"<{len(numbers)}f", *numbers))
    node = field(1, "table") + field(1, ids) + field(2, "states") + field(4, "Gather")
    graph = field(1, node) + field(2, "tiny") + field(5, table) + field(11, value_info(ids, 7, 2))
    graph += field(12, value_info("states", 1, 3))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    words = {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(VECTORS)}, "unk_token": "[UNK]"}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    tokenizer |= {"pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None, "model": words}
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    (tmp_path / "model.onnx").write_bytes(model())
    return tmp_path


def test_a_text_is_the_mean_of_its_tokens_whatever_is_beside_it(folder: Path) -> None:
    encoder = OnnxEncoder(folder)
    assert encoder.encode(["harbour loaf", "quay"]) == [pytest.approx([0.5, 0.5, 0]), pytest.approx([1, 0, 0])]
    assert encoder.encode([]) == []
    assert len(encoder.encode(["loaf " * 5_000] * 40)) == 40


def test_an_index_finds_by_its_meanings(folder: Path) -> None:
    index = BlendedIndex(OnnxEncoder(folder), [Entry("quay", "quay"), Entry("loaf", "loaf"), Entry("other", "other")])
    assert [match.id for match in index.rank("harbour", 1)] == ["quay"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("model.onnx", None, "model.onnx is not there"),
        ("tokenizer.json", None, "tokenizer.json is not there"),
        ("model.onnx", b"no model", "not an ONNX model"),
        ("tokenizer.json", b"{}", "not a tokenizer"),
        ("model.onnx", model("pixels"), "the model takes pixels"),
    ],
)
def test_what_is_missing_or_is_no_encoder_is_refused(folder: Path, name: str, content: bytes | None, said: str) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    with pytest.raises(BadInputError, match=said):
        OnnxEncoder(folder)


def test_a_library_that_is_missing_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "ioi_dagster.adapters.encoder.onnx.find_spec", lambda name: None if name == "tokenizers" else name
    )
    with pytest.raises(BadInputError, match="an encoder needs tokenizers"):
        OnnxEncoder(folder)
