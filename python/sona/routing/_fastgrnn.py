"""The FastGRNN cell with a read-out, over the turns of a conversation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sona import _core
from sona.exceptions import ConfigError, ShapeError
from sona.routing._arrays import finite

__all__ = ["FastGRNN", "TrainReport"]


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What a training run did.

    Attributes
    ----------
    losses : tuple of float
        Mean loss of each pass, measured while it learned.
    epochs, examples : int
        Passes, and sequences per pass.
    """

    losses: tuple[float, ...]
    epochs: int
    examples: int

    @property
    def first_loss(self) -> float:
        """Loss of the first pass; NaN without any."""
        return self.losses[0] if self.losses else float("nan")

    @property
    def final_loss(self) -> float:
        """Loss of the last pass; NaN without any."""
        return self.losses[-1] if self.losses else float("nan")


class FastGRNN:
    """A gated recurrent cell whose two gates share their matrices.

    p = Wx + Uh; z = σ(p + b_gate); c = tanh(p + b_update); h′ = (σ(ζ)(1 − z) + σ(ν))·c + z·h. A single vector has nothing to
    recur over: use the cell over the turns of a conversation.

    Parameters
    ----------
    n_in, n_hidden : int
        Inputs and hidden units.
    rank_w, rank_u : int, optional
        Make W (n_hidden, n_in) or U (n_hidden, n_hidden) the product of two matrices of this rank; None: full.
    zeta, nu : float, default 1.0 and -4.0
        The two gate scalars, before σ. Training moves them.
    seed : int, default 0
        Of the first weights.

    Raises
    ------
    ConfigError
        If a size or rank is out of range.

    Notes
    -----
    A step costs O(n_hidden·(n_in + n_hidden)), less by the ranks. Safe to share between threads; ``fit`` trains a copy and
    puts it in place at the end.

    References
    ----------
    Kusupati et al. 2018, FastGRNN, equations 3 to 5.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> turns = [rng.normal(size=(6, 4)) for _ in range(200)]
    >>> rising = [[float(t[0, 0] > 0)] for t in turns]          # decided by the first turn, asked after the last
    >>> cell = FastGRNN(4, 8)
    >>> report = cell.fit(turns, rising, epochs=40, learning_rate=0.02)
    >>> report.final_loss < 0.3 * report.first_loss
    True
    >>> cell.run(turns[0]).shape, cell.predict(turns[0]).shape, cell.quantize().metrics()["quantized"]
    ((6, 8), (1,), 1)
    """

    def __init__(
        self,
        n_in: int,
        n_hidden: int,
        *,
        rank_w: int | None = None,
        rank_u: int | None = None,
        zeta: float = 1.0,
        nu: float = -4.0,
        seed: int = 0,
    ) -> None:
        self._cell = _core.GrnnCell(n_in, n_hidden, rank_w=rank_w, rank_u=rank_u, zeta=zeta, nu=nu, seed=seed)

    @property
    def n_in(self) -> int:
        """Inputs."""
        return self._cell.shape[0]

    @property
    def n_hidden(self) -> int:
        """Hidden units."""
        return self._cell.shape[1]

    @property
    def zeta(self) -> float:
        """Gate scalar ζ."""
        return self._cell.shape[4]

    @property
    def nu(self) -> float:
        """Gate scalar ν."""
        return self._cell.shape[5]

    @property
    def param_count(self) -> int:
        """Trainable numbers: matrices, biases, ζ, ν, and the read-out once there is one."""
        return self._cell.shape[8]

    def set_weights(
        self, W: Any, U: Any, bias_gate: Any, bias_update: Any, *, zeta: float | None = None, nu: float | None = None
    ) -> None:
        """Replace the weights. A cell of low rank takes the best approximation of that rank (truncated SVD).

        Parameters
        ----------
        W : (n_hidden, n_in) array
        U : (n_hidden, n_hidden) array
        bias_gate, bias_update : (n_hidden,) array
        zeta, nu : float, optional
            Kept if None.

        Raises
        ------
        NotFiniteError, ShapeError, DimensionMismatch
            If an array does not fit. Nothing changes.
        """
        n_in, n, rank_w, rank_u = self._cell.shape[:4]
        self._cell.set_weights(
            _factors("W", W, (n, n_in), rank_w), _factors("U", U, (n, n), rank_u), bias_gate, bias_update, zeta, nu
        )

    def forward(self, x: Any, h: Any = None) -> npt.NDArray[np.float32]:
        """Return the hidden state (n_hidden,) after one input ``x`` (n_in,), from the state ``h`` (zeros if None)."""
        row = np.asarray(x, dtype=np.float32)
        if row.ndim != 1:
            raise ShapeError(f"x: expected shape ({self.n_in},), got {row.shape}")
        out: npt.NDArray[np.float32] = self._cell.run(row[None], h)[0]
        return out

    def run(self, X: Any, h: Any = None) -> npt.NDArray[np.float32]:
        """Return the hidden states (T, n_hidden) over a sequence ``X`` (T, n_in), from the state ``h`` (zeros if None)."""
        return self._cell.run(X, h)

    def predict(self, X: Any) -> npt.NDArray[np.float64]:
        """Return the trained outputs (n_out,) after a sequence ``X`` (T, n_in).

        Raises
        ------
        LearningError
            Before ``fit``.
        """
        return self._cell.predict(X)

    def predict_rows(self, X: Any) -> npt.NDArray[np.float32]:
        """Return the outputs (n, n_out) for n sequences of one step each, ``X`` (n, n_in), in one pass."""
        return self._cell.predict_rows(X)

    def fit(
        self,
        sequences: Iterable[Any],
        targets: Any,
        *,
        epochs: int = 50,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        weight_decay: float = 1e-4,
        clip_norm: float = 5.0,
        loss: str = "logistic",
        seed: int = 0,
    ) -> TrainReport:
        """Train cell and read-out by back-propagation through time and AdamW, in float64; continues from the present weights.

        Parameters
        ----------
        sequences : iterable of (T_i, n_in) arrays
            Each at least one step long.
        targets : (n, n_out) or (n,) array
            Asked after the last step; in [0, 1] for the logistic loss.
        epochs, batch_size : int
            Passes, and sequences per step.
        learning_rate, weight_decay, clip_norm : float
            Of AdamW; decay of matrices only; bound on the norm of a batch's gradient.
        loss : {"logistic", "squared"}
            Cross-entropy on σ of the read-out, or half the squared error.
        seed : int
            Order of the sequences.

        Raises
        ------
        NotFiniteError, ShapeError, DimensionMismatch, ValueError
            If an input does not fit. Nothing changes.
        LearningError
            If the weights overflow. Nothing changes.
        """
        if loss not in ("logistic", "squared"):
            raise ValueError(f"loss: expected 'logistic' or 'squared', got {loss!r}")
        y = np.asarray(targets, dtype=np.float32)
        y = y[:, None] if y.ndim == 1 else y
        rows = list(sequences)
        losses = self._cell.fit(rows, y, epochs, batch_size, learning_rate, weight_decay, clip_norm, loss == "logistic", seed)
        return TrainReport(tuple(losses), epochs, len(rows))

    def quantize(self, bits: int = 8) -> FastGRNN:
        """Return a cell whose matrices are int8 with one scale per row; inputs are quantised as they come.

        Raises
        ------
        ConfigError
            If ``bits`` is not 8.
        """
        if bits != 8:
            raise ConfigError(f"bits: expected 8, got {bits}")
        return self._of(self._cell.quantize())

    @classmethod
    def _of(cls, cell: _core.GrnnCell) -> Self:
        self = cls.__new__(cls)
        self._cell = cell
        return self

    def metrics(self) -> dict[str, int | float]:
        """Return sizes, whether it is int8, and the number of training steps."""
        return self._cell.metrics()

    def to_bytes(self) -> bytes:
        """Return the whole state, versioned and with a checksum."""
        return self._cell.to_bytes()

    @classmethod
    def from_bytes(cls, b: bytes) -> Self:
        """Restore what :meth:`to_bytes` wrote; ``CorruptStateError`` for anything else."""
        return cls._of(_core.GrnnCell.from_bytes(b))

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).from_bytes, (self.to_bytes(),))

    def __repr__(self) -> str:
        n_in, n, rank_w, rank_u, _, _, outputs, quantized, params = self._cell.shape
        ranks = "".join(f", {k}={v}" for k, v in (("rank_w", rank_w), ("rank_u", rank_u)) if v is not None)
        return f"FastGRNN({n_in}, {n}{ranks}, outputs={outputs}, parameters={params}{', int8' if quantized else ''})"


def _factors(name: str, matrix: Any, shape: tuple[int, int], rank: int | None) -> list[Any]:
    m = np.asarray(matrix, dtype=np.float32)
    if m.shape != shape:
        raise ShapeError(f"{name}: expected shape {shape}, got {m.shape}")
    if rank is None:
        return [m]
    u, s, vt = np.linalg.svd(finite(name, m.astype(np.float64)), full_matrices=False)
    root = np.sqrt(s[:rank])
    return [u[:, :rank] * root, root[:, None] * vt[:rank]]
