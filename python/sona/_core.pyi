# Stubs of the compiled module. One section per room; keep the sections in this order.

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
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

@final
class EventLog:
    def __new__(
        cls, path: str | os.PathLike[str], *, fsync: Literal["always", "group", "none"] = "group"
    ) -> Self: ...
    def append(self, payload: bytes) -> int: ...
    def append_many(self, payloads: Sequence[bytes]) -> range: ...
    def replay(self, from_seq: int = 0) -> EventLogReplay: ...
    def checkpoint(self, seq: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def path(self) -> Path: ...
    @property
    def first_seq(self) -> int: ...
    @property
    def next_seq(self) -> int: ...
    @property
    def truncated_bytes(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def metrics(self) -> dict[str, int | float]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc: object) -> None: ...

@final
class EventLogReplay(Iterator[tuple[int, bytes]]):
    def __iter__(self) -> Self: ...
    def __next__(self) -> tuple[int, bytes]: ...

@final
class EventLogReader:
    def __new__(cls, path: str | os.PathLike[str], *, from_seq: int = 0) -> Self: ...
    def poll(self, max_bytes: int = 16777216) -> list[tuple[int, bytes]]: ...
    @property
    def next_seq(self) -> int: ...
    @property
    def missed(self) -> int: ...

@final
class SnapshotStore:
    def __new__(cls, directory: str | os.PathLike[str]) -> Self: ...
    def save(self, state: bytes, *, version: int) -> Path: ...
    def load(self, version: int | None = None) -> bytes: ...
    @property
    def versions(self) -> list[int]: ...
    def prune(self, keep: int) -> list[int]: ...
    def remove(self, version: int) -> bool: ...
    @property
    def directory(self) -> Path: ...
    def metrics(self) -> dict[str, int | float]: ...

@final
class EmbeddedStore:
    def __new__(cls, path: str | os.PathLike[str]) -> Self: ...
    def put(self, scope: str, key: str, value: bytes) -> None: ...
    def put_many(self, scope: str, pairs: Sequence[tuple[str, bytes]]) -> None: ...
    def get(self, scope: str, key: str) -> bytes | None: ...
    def delete(self, scope: str, key: str) -> bool: ...
    def scan(self, scope: str) -> list[tuple[str, bytes]]: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def metrics(self) -> dict[str, int | float]: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *_exc: object) -> None: ...

def _check_keys(scope: str, keys: Sequence[str]) -> None: ...
def save_safetensors(path: str | os.PathLike[str], tensors: dict[str, Any]) -> None: ...
def load_safetensors(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]: ...
def export_preferences(path: str | os.PathLike[str], rows: Iterable[dict[str, Any]]) -> int: ...

# --- engine ----------------------------------------------------------------------------------------------------------

class Decision:
    """A ranking that was returned: ids and scores of the shown places, best first."""

    @property
    def id(self) -> str | None:
        """Id to give feedback to; None if the mode is "off"."""
    @property
    def ids(self) -> list[Any]:
        """Shown item ids, best first."""
    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """(k,) scores that decided."""
    @property
    def base_scores(self) -> npt.NDArray[np.float32]:
        """(k,) scores of the application, or cosines."""
    @property
    def propensities(self) -> npt.NDArray[np.float32]:
        """(k,) probability with which each place was filled as it was, given the places before it."""
    @property
    def version(self) -> int:
        """Version of the state that decided."""
    @property
    def acted(self) -> bool:
        """Whether what was learned acted."""
    @property
    def scope(self) -> str:
        """Scope of the decision."""
    def __len__(self) -> int: ...

class Engine:
    """Compiled base of `sona.SonaEngine`."""

    def __new__(cls, settings: Any, store: str | None = None, embedder: Any = None) -> Self: ...
    def adapt(self, x: Any, *, scope: str = "default", out: npt.NDArray[np.float32] | None = None) -> npt.NDArray[np.float32]:
        """Move a query vector by what the scope has learned.

        Parameters
        ----------
        x : array_like (d,) or (n, d) float32, or str with an embedder
        scope : str, default "default"
        out : (d,) or (n, d) float32, C-contiguous, optional
            Receives the result.

        Returns
        -------
        Array of x's shape: unit vectors where cases are known, x itself bit for bit where nothing is.

        Raises
        ------
        DimensionMismatch, ShapeError, NotFiniteError
        """
    def rank(
        self,
        query: Any,
        ids: Iterable[Any],
        vectors: Any = None,
        *,
        scores: Any = None,
        scope: str = "default",
        k: int = 10,
        user: str = "",
        now: float | None = None,
    ) -> Decision:
        """Re-score candidates and remember the decision for its feedback.

        Parameters
        ----------
        query : array_like (d,) float32, or str with an embedder
        ids : sequence of str, int, bytes or tuples of them, distinct
        vectors : array_like (n, d) float32, optional
            One row per id; may be left out if every id was ranked before in this scope.
        scores : array_like (n,) float32, optional
            The application's own scores; cosines if omitted.
        scope : str, default "default"
        k : int, default 10
            Places to fill.
        user : str, default ""
            On whose behalf; needed for `forget(user=…)` to find decisions without feedback.
        now : float, optional
            Seconds since the epoch; the clock if omitted.

        Raises
        ------
        DimensionMismatch, ShapeError, NotFiniteError, ValueError, CapacityError (too many scopes), StoreError (disk)
        """
    def feedback(
        self,
        decision_id: str | Decision,
        *,
        chosen: Any = None,
        rewards: Mapping[Any, float] | None = None,
        quality: float | None = None,
        vectors: Any = None,
        source: str = "",
        user: str = "",
        now: float | None = None,
    ) -> bool:
        """Tell how a decision turned out; the next answer is different. May come late, twice, or in another process.

        Parameters
        ----------
        decision_id : str or Decision
        chosen : id, or list of ids, optional
            What helped (reward 1). Items that were not shown, or not ranked at all, are welcome.
        rewards : dict of id to float in [-1, 1], optional
            Graded outcomes; negative pushes away.
        quality : float in [0, 1], optional
            Quality of the whole answer; compared with what is usual.
        vectors : array_like, optional
            Vectors of the judged items, needed only for items that this scope never ranked.
        source : str, default ""
            Who says so ("click", "judge", …); see `source_trust` and `source_caps`.
        user : str, default ""
        now : float, optional

        Returns
        -------
        True if it was taken; False if the very same feedback was taken before, or the mode is "off". When it returns, a
        killed process loses nothing (with a store).

        Raises
        ------
        LearningError
            If the decision is unknown.
        ValueError
            If a reward, quality or item is not acceptable.
        StoreError
            If it could not be written; nothing was learned then.
        """
    mode: str
    @property
    def version(self) -> int:
        """Logical time of the last event; a version to come back to."""
    @property
    def scopes(self) -> list[str]:
        """Names of all scopes, sorted."""
    @property
    def closed(self) -> bool:
        """True after `close`."""
    def _settings(self) -> dict[str, Any]: ...
    def _trace(
        self,
        x: Any,
        steps: list[tuple[Any, Any, float]],
        quality: float,
        *,
        scope: str,
        source: str,
        user: str,
        now: float | None,
    ) -> bool: ...
    def rollback(self, version: int | str, *, scope: str | None = None) -> None:
        """Go back to an earlier version in one scope or all; 0 is the untrained state. Later versions can be brought back."""
    def _promote(self) -> dict[str, Any]: ...
    def _forget(self, *, user: str) -> dict[str, Any]: ...
    def _purge(self, *, source: str) -> dict[str, Any]: ...
    def _explain(self, decision_id: str | Decision) -> dict[str, Any]: ...
    def _report(self) -> dict[str, Any]: ...
    def _preferences(self) -> list[tuple[str, Any, Any, float]]: ...
    def metrics(self) -> dict[str, int | float]:
        """Counters and sizes."""
    def digest(self, scope: str = "default") -> str:
        """BLAKE3 of what a scope has learned; equal digests mean equal answers, bit for bit."""
    def refresh(self) -> int:
        """Take in what other processes wrote to the state directory; the number of events."""
    def checkpoint(self) -> None:
        """Write a snapshot now, so that the next opening replays only what comes after it."""
    def to_bytes(self) -> bytes:
        """Everything, also what waits for feedback."""
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `to_bytes` to a file, atomically."""
    def close(self) -> None:
        """Snapshot, flush and give up the files. Calling it again does nothing."""
    def _before_fork(self) -> None: ...
    def _after_fork(self, *, child: bool) -> None: ...

def directory_settings(path: str) -> dict[str, Any]:
    """Settings of the engine that wrote a state directory."""
