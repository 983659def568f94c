# Stubs of the compiled module. One section per room; keep the sections in this order.

from typing import Any, Literal, Self, final

import numpy as np
import numpy.typing as npt

__version__: str

# --- kernels ---------------------------------------------------------------------------------------------------------

def simd_tier() -> str: ...
def simd_tiers() -> list[str]: ...

# --- trajectory ------------------------------------------------------------------------------------------------------

# --- lora ------------------------------------------------------------------------------------------------------------

# --- patterns: kmeans ------------------------------------------------------------------------------------------------

def kmeans(
    x: npt.ArrayLike,
    k: int,
    *,
    init: npt.ArrayLike | str,
    weights: npt.ArrayLike | None,
    max_iterations: int,
    tol: float,
    metric: str,
    algorithm: str,
    seed: int,
    n_threads: int,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], float, int, bool]: ...
def kmeans_plus_plus(
    x: npt.ArrayLike, k: int, *, weights: npt.ArrayLike | None, seed: int
) -> npt.NDArray[np.int64]: ...

# --- patterns: vector index ------------------------------------------------------------------------------------------

@final
class VectorIndex:
    def __new__(
        cls,
        dim: int,
        *,
        metric: Literal["cosine", "dot", "euclidean"] = "cosine",
        dtype: Literal["float32", "int8"] = "float32",
        kind: Literal["auto", "flat", "hnsw"] = "auto",
        seed: int = 0,
    ) -> Self: ...
    def add(self, ids: npt.ArrayLike, vectors: npt.ArrayLike) -> None: ...
    def remove(self, ids: npt.ArrayLike) -> int: ...
    def search(
        self, q: npt.ArrayLike, k: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]: ...
    def recall_at(self, k: int, queries: npt.ArrayLike) -> float: ...
    @property
    def dim(self) -> int: ...
    @property
    def metric(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def nbytes(self) -> int: ...
    def metrics(self) -> dict[str, int | float]: ...
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> VectorIndex: ...
    def __len__(self) -> int: ...
    def __contains__(self, id: object, /) -> bool: ...
    def __reduce__(self) -> tuple[Any, tuple[bytes]]: ...

# --- patterns: bank, q-learning --------------------------------------------------------------------------------------

# --- patterns: case memory, item gate --------------------------------------------------------------------------------

# --- store -----------------------------------------------------------------------------------------------------------

# --- engine ----------------------------------------------------------------------------------------------------------
