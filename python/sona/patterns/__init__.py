"""What worked for requests like this: K-means++, vector index, reasoning bank, case memory."""

from __future__ import annotations

# case memory, item gate
from sona._core import CaseMemory as CaseMemory
from sona._core import ItemGate as ItemGate

# vector index
from sona._core import VectorIndex as VectorIndex

# bank, q-learning
from sona.patterns._bank import ReasoningBank as ReasoningBank

# kmeans
from sona.patterns._kmeans import KMeansResult as KMeansResult
from sona.patterns._kmeans import kmeans as kmeans
from sona.patterns._kmeans import kmeans_plus_plus as kmeans_plus_plus
from sona.patterns._learned import ActionOutcome as ActionOutcome
from sona.patterns._learned import LearnedPattern as LearnedPattern
from sona.patterns._learned import MemoryItem as MemoryItem
from sona.patterns._learned import PatternConfig as PatternConfig
from sona.patterns._learned import PatternMatch as PatternMatch
from sona.patterns._learned import Verdict as Verdict
from sona.patterns._qlearning import QLearningPatterns as QLearningPatterns
