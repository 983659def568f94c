"""What worked for requests like this: K-means++, vector index, reasoning bank, case memory."""

from __future__ import annotations

# kmeans

# vector index
from sona._core import VectorIndex as VectorIndex

# bank, q-learning

# case memory, item gate
from sona._core import CaseMemory, ItemGate
