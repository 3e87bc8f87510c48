"""The reading model, one a process: RapidOCR (PP-OCRv6), one thread."""

from __future__ import annotations

from functools import lru_cache
from typing import Any


def warm_up() -> None:
    """Load the models, so that the first page does not pay for it."""
    from PIL import Image

    engine()(array(Image.new("RGB", (320, 64), "white")), use_det=True, use_cls=False, use_rec=True)


@lru_cache(maxsize=1)
def engine() -> Any:
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
    )


def array(image: Any) -> Any:
    import numpy

    return numpy.ascontiguousarray(numpy.asarray(image)[:, :, ::-1])
