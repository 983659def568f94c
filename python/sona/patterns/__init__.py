"""What worked for requests like this: K-means++, vector index, reasoning bank, case memory."""

from __future__ import annotations

# kmeans
from sona.patterns._kmeans import KMeansResult as KMeansResult
from sona.patterns._kmeans import kmeans as kmeans
from sona.patterns._kmeans import kmeans_plus_plus as kmeans_plus_plus

# vector index
from sona._core import VectorIndex as VectorIndex

# bank, q-learning

# case memory, item gate
from sona._core import CaseMemory as CaseMemory
from sona._core import ItemGate as ItemGate
