"""The reading model, one a process: RapidOCR (PP-OCRv6), one thread."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

_ONE_THREAD = {
    "Global.log_level": "error",
    "EngineConfig.onnxruntime.intra_op_num_threads": 1,
    "EngineConfig.onnxruntime.inter_op_num_threads": 1,
}


def warm_up() -> None:
    """Load the models, so that the first page does not pay for it."""
    from PIL import Image

    white = array(Image.new("RGB", (320, 64), "white"))
    engine()(white, use_det=True, use_cls=False, use_rec=True)
    finder()(white, use_det=True, use_cls=False, use_rec=False)


@lru_cache(maxsize=1)
def engine() -> Any:
    """Finds and reads lines. A small picture is enlarged first, until its shorter side has 736 pixels."""
    from rapidocr import RapidOCR

    return RapidOCR(params=dict(_ONE_THREAD))


@lru_cache(maxsize=1)
def finder() -> Any:
    """Finds lines in a picture as large as it is: a quarter of the pixels cost a quarter of the time."""
    from rapidocr import RapidOCR

    return RapidOCR(params={**_ONE_THREAD, "Det.limit_type": "max", "Det.limit_side_len": 2_000})


def array(image: Any) -> Any:
    import numpy

    return numpy.ascontiguousarray(numpy.asarray(image)[:, :, ::-1])
