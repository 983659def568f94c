"""Adapters: the fast low-rank one, the slow layered one, optimisers, merging, pools, quantisation, exchange files.

:class:`MicroLoRA` changes a query vector within the same request; :class:`BaseLoRA` is trained in the background and can
take a fast adapter in (:meth:`BaseLoRA.merge_micro`) or be exported for Hugging Face PEFT (:func:`export_peft`).
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from sona._core import (
    NF4_CODE,
    SGD,
    Adagrad,
    AdamW,
    AdapterPool,
    ApplyReport,
    BaseLoRA,
    MicroLoRA,
    QuantAwareMicroLoRA,
    QuantizedMicroLoRA,
    clip_by_norm,
    dequantize_nf4,
    dequantize_symmetric,
    export_peft,
    load_peft_files,
    quantize_affine,
    quantize_nf4,
    quantize_symmetric,
)

__all__ = [
    "NF4_CODE",
    "SGD",
    "Adagrad",
    "AdamW",
    "AdapterPool",
    "ApplyReport",
    "BaseLoRA",
    "MicroLoRA",
    "QAMicroLoRA",
    "QuantAwareMicroLoRA",
    "QuantizedMicroLoRA",
    "clip_by_norm",
    "dequantize_nf4",
    "dequantize_symmetric",
    "export_peft",
    "load_peft",
    "quantize_affine",
    "quantize_nf4",
    "quantize_symmetric",
]

QAMicroLoRA = QuantizedMicroLoRA

_Factors = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def load_peft(path: str | os.PathLike[str]) -> tuple[dict[str, _Factors], dict[str, Any]]:
    """Read an adapter directory that :func:`export_peft` or Hugging Face PEFT wrote.

    Safe on hostile files: no code in them is run, sizes are checked before anything is allocated, values must be finite.
    Half-precision weights come widened to float32.

    Parameters
    ----------
    path : path-like
        Directory with ``adapter_model.safetensors`` and ``adapter_config.json``.

    Returns
    -------
    factors : dict of str to (A, B)
        By module name: A (r, in) and B (out, r).
    config : dict
        The configuration file.

    Raises
    ------
    StoreError
        A file cannot be read.
    CorruptStateError, NotFiniteError
        A file is damaged or holds something else than LoRA factors.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     export_peft(directory, {"q_proj": ([[1.0, 2.0]], [[3.0], [4.0]])}, alpha=1.0)
    ...     factors, config = load_peft(directory)
    >>> factors["q_proj"][1].tolist(), config["peft_type"]
    ([[3.0], [4.0]], 'LORA')
    """
    factors, text = load_peft_files(os.fspath(path))
    return factors, json.loads(text)
