"""What looks for pickles on the wire finds them."""

from __future__ import annotations

import base64
import pickle

import pytest

from ioi_dagster.framing import encode_payload
from ioi_dagster.model.block import Payload
from tests.pickles import pickles_in


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("value", [1, {"a": [1, 2]}, RuntimeError("x")], ids=["number", "dict", "object"])
def test_a_pickle_is_found_wherever_it_lies(protocol, value):
    data = pickle.dumps(value, protocol)
    assert pickles_in(data)
    assert pickles_in(b"POST /v1/invoke HTTP/1.1\r\n\r\n" + data + b"\x00\x80 and more")
    assert pickles_in(encode_payload(Payload({}, {"work": data})))


def test_one_in_base64_is_found_too():
    data = b"{}" * 20 + pickle.dumps({"a": list(range(30))})
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        assert pickles_in(b'{"body": "' + encode(data[40:]) + b'"}')


def test_what_is_none_is_not_found():
    assert pickles_in(b"") == []
    assert pickles_in(b'{"text": "HELLO", "at": 1.5}' * 100) == []
    assert pickles_in(encode_payload(Payload({"text": "x" * 5_000}, {"picture": bytes(range(256)) * 40}))) == []
