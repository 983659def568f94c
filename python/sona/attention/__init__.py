"""Attention mechanisms on numpy arrays, in float32 and float64."""

from __future__ import annotations

from sona import _core
from sona.attention import layouts, poincare
from sona.attention._errors import CycleError, DTypeError, GateSkipped, GraphError, ParameterError
from sona.attention._results import AttentionOutput
from sona.attention._vjp import vjp
from sona.attention.dag import Dag, DagScores, dag_mask
from sona.attention.dag_cuts import GatePacket, PlacementResult, dag_mincut_gated, dag_two_site_placement
from sona.attention.dag_lorentz import dag_hierarchical_lorentz
from sona.attention.dag_paths import dag_causal_cone, dag_critical_path, dag_parallel_branch, dag_topological
from sona.attention.differential import differential_attention
from sona.attention.differential_block import DiffAttention
from sona.attention.dot_product import flash_attention, scaled_dot_product_attention
from sona.attention.graph_attention import GATOutput, gat_conv, gatv2_conv
from sona.attention.graph_convolution import NeighborSample, gcn_conv, sage_conv, sample_neighbors
from sona.attention.graph_modules import GATConv, GATv2Conv, GCNConv, SAGEConv
from sona.attention.hopfield import HierarchicalHopfield, HopfieldMemory, hopfield_energy, hopfield_retrieve
from sona.attention.hyperbolic import hyperbolic_attention, lorentz_attention
from sona.attention.hypervectors import (
    hdc_attention,
    hdc_bind,
    hdc_bundle,
    hdc_encode,
    hdc_pack,
    hdc_permute,
    hdc_similarity,
    hdc_unpack,
)
from sona.attention.linear import linear_attention, random_features
from sona.attention.mamba import MambaBlock
from sona.attention.mixture import MoEAttention, RouteOutput, moe_route
from sona.attention.multi_head import MultiHeadAttention
from sona.attention.oscillators import (
    OrderParameter,
    OscillatoryRouter,
    kuramoto_integrate,
    kuramoto_rhs,
    order_parameter,
)
from sona.attention.predictive import PredictiveCoder, PredictiveStream, predictive_equilibrium
from sona.attention.registry import MechanismInfo, attention, info, names
from sona.attention.selector import AttentionSelector
from sona.attention.sparse import block_sparse_attention, local_global_attention
from sona.attention.state_space import ScanOutput, selective_scan, ssd
from sona.attention.temporal import BTSPTrace, TemporalBTSP
from sona.attention.winners import k_winners, sparsemax
from sona.attention.workspace import (
    GlobalWorkspace,
    WorkspaceItems,
    WorkspaceOutput,
    global_workspace,
    workspace_select,
)
from sona.exceptions import ShapeError

__all__ = [
    "AttentionOutput",
    "AttentionSelector",
    "BTSPTrace",
    "CycleError",
    "DTypeError",
    "Dag",
    "DagScores",
    "DiffAttention",
    "GATConv",
    "GATOutput",
    "GATv2Conv",
    "GCNConv",
    "GatePacket",
    "GateSkipped",
    "GlobalWorkspace",
    "GraphError",
    "HierarchicalHopfield",
    "HopfieldMemory",
    "MambaBlock",
    "MechanismInfo",
    "MoEAttention",
    "MultiHeadAttention",
    "NeighborSample",
    "OrderParameter",
    "OscillatoryRouter",
    "ParameterError",
    "PlacementResult",
    "PredictiveCoder",
    "PredictiveStream",
    "RouteOutput",
    "SAGEConv",
    "ScanOutput",
    "ShapeError",
    "TemporalBTSP",
    "WorkspaceItems",
    "WorkspaceOutput",
    "attention",
    "block_sparse_attention",
    "dag_causal_cone",
    "dag_critical_path",
    "dag_hierarchical_lorentz",
    "dag_mask",
    "dag_mincut_gated",
    "dag_parallel_branch",
    "dag_topological",
    "dag_two_site_placement",
    "differential_attention",
    "flash_attention",
    "gat_conv",
    "gatv2_conv",
    "gcn_conv",
    "get_num_threads",
    "global_workspace",
    "hdc_attention",
    "hdc_bind",
    "hdc_bundle",
    "hdc_encode",
    "hdc_pack",
    "hdc_permute",
    "hdc_similarity",
    "hdc_unpack",
    "hopfield_energy",
    "hopfield_retrieve",
    "hyperbolic_attention",
    "info",
    "k_winners",
    "kuramoto_integrate",
    "kuramoto_rhs",
    "layouts",
    "linear_attention",
    "local_global_attention",
    "lorentz_attention",
    "moe_route",
    "names",
    "order_parameter",
    "poincare",
    "predictive_equilibrium",
    "random_features",
    "sage_conv",
    "sample_neighbors",
    "scaled_dot_product_attention",
    "selective_scan",
    "set_num_threads",
    "sparsemax",
    "ssd",
    "vjp",
    "workspace_select",
]


def set_num_threads(n: int) -> None:
    """Set how many threads one call may use; results do not depend on it.

    >>> set_num_threads(1); get_num_threads()
    1
    """
    if n < 1:
        raise ParameterError(f"n: expected at least 1, got {n}")
    _core.set_attention_threads(n)


def get_num_threads() -> int:
    """How many threads one call may use: what was set, else the processors available."""
    return _core.attention_threads()
