"""An encoder of sentences as an ONNX model with its tokenizer: `ras.matching.encoder.Encoder`, by onnxruntime and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ioi_dagster.errors import BadInputError

MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
MAX_TOKENS = 256
"""Of one text; what follows is not looked at."""
AT_ONCE = 32
"""Texts of one run of the model."""
_WHERE = "encoder of meanings"
_ROLES = ("input_ids", "attention_mask", "token_type_ids")


class OnnxEncoder:
    """`folder` has `model.onnx` (or `onnx/model.onnx`, where many exports put it) and `tokenizer.json`. The model
    takes `input_ids` and, where it wants them, `attention_mask` and `token_type_ids`, all [texts, tokens] of int64; its first
    output is [texts, tokens, size], of which the mean over a text's tokens is taken, or [texts, size]. Nothing is downloaded.

    Raises `BadInputError` where a file or library is missing, or the files are not such."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        missing = [its for its in ("onnxruntime", "tokenizers", "numpy") if find_spec(its) is None]
        if missing:
            raise BadInputError(
                f"an encoder needs {', '.join(missing)}", where=_WHERE, todo="pip install 'ioi-dagster[encoder]'"
            )
        model = next((path for path in (folder / MODEL, folder / "onnx" / MODEL) if path.is_file()), folder / MODEL)
        for path in (model, folder / TOKENIZER):
            if not path.is_file():
                raise BadInputError(
                    f"{path} is not there",
                    where=_WHERE,
                    todo=f"put {MODEL} and {TOKENIZER} of an encoder into {folder}",
                )
        self._tokens = _tokenizer(folder / TOKENIZER)
        self._session = _session(model, threads)
        self._wanted = [its.name for its in self._session.get_inputs()]
        if "input_ids" not in self._wanted or set(self._wanted) - set(_ROLES):
            raise BadInputError(
                f"the model takes {', '.join(self._wanted)}",
                where=str(model),
                todo=f"give one that takes {', '.join(_ROLES)}",
            )

    def encode(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector for each text: all zeros, which a `BlendedIndex` refuses, where the tokenizer finds no token and adds none."""
        vectors: list[list[float]] = []
        for at in range(0, len(texts), AT_ONCE):
            vectors += self._some(list(texts[at : at + AT_ONCE]))
        return vectors

    def _some(self, texts: list[str]) -> list[list[float]]:
        import numpy as np

        encoded = self._tokens.encode_batch(texts)
        longest = max(1, *(len(its.ids) for its in encoded))
        ids = np.zeros((len(texts), longest), dtype=np.int64)
        mask = np.zeros_like(ids)
        for row, its in enumerate(encoded):
            ids[row, : len(its.ids)] = its.ids
            mask[row, : len(its.ids)] = 1
        fed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        output = np.asarray(self._session.run(None, {name: fed[name] for name in self._wanted})[0])
        if output.ndim == 3:
            counted = mask[:, :, None]
            output = (output * counted).sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
        if output.ndim != 2 or len(output) != len(texts):
            raise BadInputError(
                f"the model's first output has the shape {output.shape} for {len(texts)} texts",
                where=_WHERE,
                todo="give one whose first output is [texts, tokens, size] or [texts, size]",
            )
        return output.astype(float).tolist()


def _tokenizer(path: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(path))
    # tokenizers raises bare Exceptions.
    except Exception as error:
        raise BadInputError(f"not a tokenizer: {error}", where=str(path), todo="give the one of the model") from error
    found.no_padding()
    found.enable_truncation(MAX_TOKENS)
    return found


def _session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    # Its errors are of a dozen types without a common one but Exception.
    except Exception as error:
        raise BadInputError(f"not an ONNX model: {error}", where=str(path), todo="export it anew") from error
