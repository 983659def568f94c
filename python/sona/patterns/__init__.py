"""What worked for requests like this: K-means++, vector index, reasoning bank, case memory."""

from __future__ import annotations

# kmeans

# vector index

# bank, q-learning

# case memory, item gate
