"""Trainable graph layers, with the parameters' names and shapes of torch-geometric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from sona.attention._arrays import Array, view
from sona.attention._errors import ParameterError
from sona.attention._module import Module, glorot, uniform
from sona.attention._vjp import Gradients, vjp
from sona.attention.graph import count
from sona.attention.graph_attention import GATOutput, gat_conv, gatv2_conv
from sona.attention.graph_convolution import gcn_conv, sage_conv

__all__ = ["GATConv", "GATv2Conv", "GCNConv", "SAGEConv"]


class _Layer(Module):
    """A graph function with its parameters."""

    # Parameters of the function, and their names in the state dict.
    _names: ClassVar[tuple[tuple[str, str], ...]]

    def __init__(self, in_channels: int, out_channels: int, dtype: Any) -> None:
        super().__init__(dtype)
        self.in_channels = count("in_channels", in_channels, 1)
        self.out_channels = count("out_channels", out_channels, 1)

    def _call(self, function: Callable[..., Any], x: Any, edge_index: Any, **options: Any) -> Any:
        known = {name: self._parameters.get(key) for name, key in self._names}
        # torch-geometric stores vectors of attention as (1, H, C).
        given = {n: p[0] if p is not None and p.ndim == 3 else p for n, p in known.items()}
        result, pullback = vjp(function, self._input("x", x, 2, self.in_channels), edge_index, **given, **options)

        def pull(dout: Array) -> Gradients:
            grads = pullback(dout)
            for name, key in self._names:
                if key in self._parameters:
                    grads[key] = grads.pop(name).reshape(self._parameters[key].shape)
            return grads

        self._pullback = pull
        return result

    def load_state_dict(self, d: Mapping[str, Any]) -> None:
        """Replace all parameters; nothing changes if one is missing, unknown or of the wrong shape.

        Vectors of attention may have shape (1, H, C) or (H, C).
        """
        fitted = {}
        for name, x in d.items():
            a, old = view(name, x), self._parameters.get(name)
            fitted[name] = a[None] if old is not None and old.ndim == 3 and a.shape == old.shape[1:] else a
        super().load_state_dict(fitted)

    def __repr__(self) -> str:
        """Sizes."""
        return f"{type(self).__name__}({self.in_channels}, {self.out_channels}, dtype='{self.dtype}')"


class _Heads(_Layer):
    """What GATConv and GATv2Conv share."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        heads: int,
        concat: bool,
        negative_slope: float,
        add_self_loops: bool,
        bias: bool,
        dtype: Any,
    ) -> None:
        super().__init__(in_channels, out_channels, dtype)
        self.heads = count("heads", heads, 1)
        self._options = {
            "heads": self.heads,
            "concat": bool(concat),
            "negative_slope": negative_slope,
            "add_self_loops": bool(add_self_loops),
        }
        if bias:
            self._set(bias=np.zeros(out_channels * heads if concat else out_channels))

    def _attention(self, rng: np.random.Generator) -> Array:
        return glorot(rng, self.heads, self.out_channels)[None]


class GATConv(_Heads):
    """Graph attention as a trainable layer.

    Parameters
    ----------
    in_channels, out_channels : int
        F, and C per head.
    heads : int, default 1
    concat : bool, default True
        Concatenate the heads; False: their mean.
    negative_slope : float, default 0.2
    add_self_loops : bool, default True
    bias : bool, default True
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0

    Notes
    -----
    Parameters: ``lin.weight (H·C, F)``, ``att_src (1, H, C)``, ``att_dst (1, H, C)``, ``bias``.

    References
    ----------
    Veličković et al. 2018, "Graph Attention Networks".

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import GATConv
    >>> layer = GATConv(3, 4, heads=2)
    >>> layer(np.eye(3), [[0, 1], [1, 2]]).shape
    (3, 8)
    >>> sorted(layer.backward(np.ones((3, 8))))
    ['att_dst', 'att_src', 'bias', 'lin.weight', 'x']
    """

    _names = (
        ("weight", "lin.weight"),
        ("att_src", "att_src"),
        ("att_dst", "att_dst"),
        ("bias", "bias"),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        add_self_loops: bool = True,
        bias: bool = True,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, heads, concat, negative_slope, add_self_loops, bias, dtype)
        rng = np.random.default_rng(seed)
        self._set(
            lin__weight=glorot(rng, heads * out_channels, in_channels),
            att_src=self._attention(rng),
            att_dst=self._attention(rng),
        )

    def __call__(self, x: Any, edge_index: Any, *, return_attention: bool = False) -> Array | GATOutput:
        """`gat_conv` of x (n, F) with the layer's parameters."""
        return self._call(gat_conv, x, edge_index, return_attention=return_attention, **self._options)  # type: ignore[no-any-return]


class GATv2Conv(_Heads):
    """Graph attention with a dynamic score as a trainable layer.

    Parameters
    ----------
    in_channels, out_channels, heads, concat, negative_slope, add_self_loops, bias, dtype, seed
        As in `GATConv`; ``bias=False`` leaves out those of the projections, too.

    Notes
    -----
    Parameters: ``lin_l.weight (H·C, F)``, ``lin_l.bias``, ``lin_r.weight``, ``lin_r.bias``, ``att (1, H, C)``, ``bias``.

    References
    ----------
    Brody, Alon & Yahav 2022, "How Attentive are Graph Attention Networks?".

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import GATv2Conv
    >>> GATv2Conv(3, 4, heads=2, concat=False)(np.eye(3), [[0, 1], [1, 2]]).shape
    (3, 4)
    """

    _names = (
        ("weight_l", "lin_l.weight"),
        ("bias_l", "lin_l.bias"),
        ("weight_r", "lin_r.weight"),
        ("bias_r", "lin_r.bias"),
        ("att", "att"),
        ("bias", "bias"),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        heads: int = 1,
        concat: bool = True,
        negative_slope: float = 0.2,
        add_self_loops: bool = True,
        bias: bool = True,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, heads, concat, negative_slope, add_self_loops, bias, dtype)
        rng = np.random.default_rng(seed)
        for side in ("lin_l", "lin_r"):
            self._set(**{f"{side}__weight": glorot(rng, heads * out_channels, in_channels)})
            if bias:
                self._set(**{f"{side}__bias": np.zeros(heads * out_channels)})
        self._set(att=self._attention(rng))

    def __call__(self, x: Any, edge_index: Any, *, return_attention: bool = False) -> Array | GATOutput:
        """`gatv2_conv` of x (n, F) with the layer's parameters."""
        return self._call(gatv2_conv, x, edge_index, return_attention=return_attention, **self._options)  # type: ignore[no-any-return]


class GCNConv(_Layer):
    """Graph convolution as a trainable layer.

    Parameters
    ----------
    in_channels, out_channels : int
    improved : bool, default False
        Added self loops weigh 2.
    add_self_loops : bool, default True
    bias : bool, default True
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0

    Notes
    -----
    Parameters: ``lin.weight (out, F)``, ``bias``.

    References
    ----------
    Kipf & Welling 2017, "Semi-Supervised Classification with Graph Convolutional Networks".

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import GCNConv
    >>> GCNConv(3, 2)(np.eye(3), [[0, 1], [1, 2]]).shape
    (3, 2)
    """

    _names = (
        ("weight", "lin.weight"),
        ("bias", "bias"),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        improved: bool = False,
        add_self_loops: bool = True,
        bias: bool = True,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, dtype)
        self._options = {"improved": bool(improved), "add_self_loops": bool(add_self_loops)}
        self._set(lin__weight=glorot(np.random.default_rng(seed), out_channels, in_channels))
        if bias:
            self._set(bias=np.zeros(out_channels))

    def __call__(self, x: Any, edge_index: Any, edge_weight: Any = None) -> Array:
        """`gcn_conv` of x (n, F) with the layer's parameters."""
        if edge_weight is not None and view("edge_weight", edge_weight).dtype.kind == "f":
            edge_weight = np.asarray(edge_weight, dtype=self.dtype)
        return self._call(gcn_conv, x, edge_index, edge_weight=edge_weight, **self._options)  # type: ignore[no-any-return]


class SAGEConv(_Layer):
    """GraphSAGE as a trainable layer.

    Parameters
    ----------
    in_channels, out_channels : int
    aggr : {"mean", "max", "sum"}, default "mean"
    normalize : bool, default False
        Divide each row of the result by its 2-norm.
    bias : bool, default True
    dtype : {"float32", "float64"}, default "float32"
    seed : int, default 0

    Notes
    -----
    Parameters: ``lin_l.weight (out, F)``, ``lin_l.bias``, ``lin_r.weight (out, F)``.

    References
    ----------
    Hamilton, Ying & Leskovec 2017, "Inductive Representation Learning on Large Graphs".

    Examples
    --------
    >>> import numpy as np
    >>> from sona.attention import SAGEConv
    >>> SAGEConv(3, 2)(np.eye(3), [[0, 1], [1, 2]]).shape
    (3, 2)
    """

    _names = (
        ("weight_l", "lin_l.weight"),
        ("bias_l", "lin_l.bias"),
        ("weight_r", "lin_r.weight"),
    )

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        aggr: str = "mean",
        normalize: bool = False,
        bias: bool = True,
        dtype: Any = "float32",
        seed: int = 0,
    ) -> None:
        super().__init__(in_channels, out_channels, dtype)
        if aggr not in ("mean", "max", "sum"):
            raise ParameterError(f"aggr: expected mean, max or sum, got {aggr!r}")
        self._options = {"aggr": aggr, "normalize": bool(normalize)}
        rng = np.random.default_rng(seed)
        self._set(lin_l__weight=uniform(rng, out_channels, in_channels), lin_r__weight=uniform(rng, out_channels, in_channels))
        if bias:
            self._set(lin_l__bias=np.zeros(out_channels))

    def __call__(self, x: Any, edge_index: Any, *, fanout: int | None = None, seed: int = 0) -> Array:
        """`sage_conv` of x (n, F) with the layer's parameters; `fanout` and `seed` draw neighbours."""
        return self._call(sage_conv, x, edge_index, fanout=fanout, seed=seed, **self._options)  # type: ignore[no-any-return]
