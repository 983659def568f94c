"""The cheapest model that is good enough: routers, budgets, calibration, off-policy evaluation."""

from __future__ import annotations

from sona.routing._budget import BudgetPacer as BudgetPacer
from sona.routing._calibration import AdaptiveConformal as AdaptiveConformal
from sona.routing._calibration import IsotonicCalibrator as IsotonicCalibrator
from sona.routing._calibration import conformal_quantile as conformal_quantile
from sona.routing._calibration import risk_threshold as risk_threshold
from sona.routing._curves import aiq as aiq
from sona.routing._curves import pareto_hull as pareto_hull
from sona.routing._fastgrnn import FastGRNN as FastGRNN
from sona.routing._fastgrnn import TrainReport as TrainReport
from sona.routing._history import HistoryModel as HistoryModel
from sona.routing._offpolicy import Estimate as Estimate
from sona.routing._offpolicy import OffPolicyEvaluator as OffPolicyEvaluator
from sona.routing._offpolicy import RewardModel as RewardModel
from sona.routing._predictors import KnnRouter as KnnRouter
from sona.routing._predictors import LinUCB as LinUCB
from sona.routing._router import RoutingDecision as RoutingDecision
from sona.routing._router import TinyDancerRouter as TinyDancerRouter
