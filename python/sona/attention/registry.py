"""The 26 mechanisms by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from sona.attention._errors import ParameterError
from sona.attention._vjp import has_vjp

__all__ = ["MechanismInfo", "attention", "info", "names"]


class MechanismInfo(NamedTuple):
    """What a mechanism is."""

    name: str
    kind: str
    """``"sequence"``, ``"dag"``, ``"graph"`` or ``"nervous"``."""
    source: str
    """Where it is defined."""
    params: tuple[str, ...]
    """Names of its parameters."""
    complexity: str
    """Time for n queries, m keys of width d; for graphs n nodes and e edges."""
    differentiable: bool
    """`vjp` takes it, or it has ``backward``."""


# name: (kind, attribute of sona.attention, source, complexity)
_MECHANISMS: dict[str, tuple[str, str, str, str]] = {
    "scaled_dot_product": ("sequence", "scaled_dot_product_attention", "Vaswani et al. 2017, eq. 1", "O(n·m·d)"),
    "multi_head": ("sequence", "MultiHeadAttention", "Vaswani et al. 2017, section 3.2.2", "O(n·E² + n·m·E)"),
    "hyperbolic": ("sequence", "hyperbolic_attention", "Gulcehre et al. 2019; Shimizu et al. 2021", "O(n·m·d)"),
    "linear": ("sequence", "linear_attention", "Choromanski et al. 2021; Katharopoulos et al. 2020", "O((n + m)·f·d)"),
    "flash": ("sequence", "flash_attention", "Dao 2023, algorithms 1 and 2", "O(n·m·d), memory O(n)"),
    "local_global": ("sequence", "local_global_attention", "Beltagy et al. 2020, section 3", "O(n·(w + g)·d)"),
    "moe": ("sequence", "MoEAttention", "Zhang et al. 2022, eqs. 5 to 8", "O(k·n·m·d)"),
    "mamba": ("sequence", "selective_scan", "Gu & Dao 2023, algorithm 2", "O(n·d·N)"),
    "differential": ("sequence", "differential_attention", "Ye et al. 2024, eqs. 1 to 3", "O(n·m·d)"),
    "block_sparse": ("sequence", "block_sparse_attention", "Child et al. 2019", "O(allowed blocks·B²·d)"),
    "hopfield": ("sequence", "hopfield_retrieve", "Ramsauer et al. 2021, eq. 3", "O(steps·n·m·d)"),
    "hdc": ("sequence", "hdc_attention", "Kanerva 1996; Bricken & Pehlevan 2021", "O(n·m·dim/64)"),
    "dag_topological": ("dag", "dag_topological", "Luo et al. 2023; longest-path levels", "O(n + e)"),
    "dag_causal_cone": ("dag", "dag_causal_cone", "ancestors and descendants by distance", "O(n + e), O(e·log n) by cost"),
    "dag_critical_path": ("dag", "dag_critical_path", "Kelley & Walker 1959; Mensch & Blondel 2018", "O(n + e)"),
    "dag_mincut_gated": ("dag", "dag_mincut_gated", "Ford & Fulkerson 1956; Dinic 1970; Stone 1977", "O(n²·e)"),
    "dag_hierarchical_lorentz": ("dag", "dag_hierarchical_lorentz", "Sarkar 2011; Nickel & Kiela 2018", "O(n²), O(n) per node"),
    "dag_parallel_branch": ("dag", "dag_parallel_branch", "Dilworth 1950; Graham 1969", "O(n·e/64 + matching)"),
    "temporal_btsp": ("dag", "TemporalBTSP", "Bittner et al. 2017; Milstein et al. 2021", "O(events) per episode"),
    "gat": ("graph", "gat_conv", "Veličković et al. 2018, eqs. 1 to 6", "O(n·F·H·C + e·H·C)"),
    "gcn": ("graph", "gcn_conv", "Kipf & Welling 2017, eq. 2", "O(n·F·C + e·C)"),
    "sage": ("graph", "sage_conv", "Hamilton et al. 2017, algorithm 1", "O(n·F·C + e·F)"),
    "global_workspace": ("nervous", "global_workspace", "Baars 1988; Goyal et al. 2022", "O(n·s·d)"),
    "oscillatory": ("nervous", "OscillatoryRouter", "Kuramoto 1984; Fries 2015", "O(n²) per step"),
    "predictive": ("nervous", "PredictiveCoder", "Rao & Ballard 1999; Miskowicz 2006", "O(dim) per step"),
    "k_winners": ("nervous", "k_winners", "Majani et al. 1989; Maass 2000", "O(n)"),
}
_KINDS = ("sequence", "dag", "graph", "nervous")


def names(kind: str | None = None) -> list[str]:
    """Names of all mechanisms, or of one kind: ``"sequence"``, ``"dag"``, ``"graph"``, ``"nervous"``.

    >>> from sona.attention import names
    >>> len(names()), names("nervous")
    (26, ['global_workspace', 'oscillatory', 'predictive', 'k_winners'])
    """
    if kind is not None and kind not in _KINDS:
        raise ParameterError(f"kind: expected one of {', '.join(_KINDS)}, got {kind!r}")
    return [name for name, entry in _MECHANISMS.items() if kind in (None, entry[0])]


def _resolve(name: str) -> Callable[..., Any]:
    if name not in _MECHANISMS:
        raise ParameterError(f"name: {name!r} is unknown; known are {', '.join(_MECHANISMS)}")
    import sona.attention as package

    return getattr(package, _MECHANISMS[name][1])  # type: ignore[no-any-return]


def info(name: str) -> MechanismInfo:
    """Kind, source, parameters and cost of a mechanism; ParameterError for an unknown name.

    >>> from sona.attention import info
    >>> info("flash").source, info("flash").differentiable
    ('Dao 2023, algorithms 1 and 2', True)
    """
    target = _resolve(name)
    kind, _, source, complexity = _MECHANISMS[name]
    params = tuple(inspect.signature(target).parameters)
    return MechanismInfo(name, kind, source, params, complexity, has_vjp(target) or hasattr(target, "backward"))


def attention(name: str, *args: Any, **kwargs: Any) -> Any:
    """Call the function of that name, or construct the class; ParameterError for an unknown name.

    >>> import numpy as np
    >>> from sona.attention import attention
    >>> attention("flash", np.eye(2), np.eye(2), np.eye(2), scale=100.0).round(3)
    array([[1., 0.],
           [0., 1.]])
    """
    return _resolve(name)(*args, **kwargs)
