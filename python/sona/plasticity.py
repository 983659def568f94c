"""Learning from one example (BTSP) and on a stream in constant memory (e-prop).

:class:`BTSPLayer` binds a target to a pattern at once, :class:`BTSPMemory` finds stored binary patterns from damaged
cues, :class:`EpropLayer` is a recurrent spiking network that learns while it runs.
"""

from __future__ import annotations

from sona._core import BTSPLayer, BTSPMemory, EpropLayer, btsp_weight_change

__all__ = ["BTSPLayer", "BTSPMemory", "EpropLayer", "btsp_weight_change"]
