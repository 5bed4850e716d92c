"""Choosing k of n labels as easily as 1 of n.

>>> import torch, manyhot
>>> logits, targets = torch.tensor([[2.0, -1.0, 3.0, -2.0]]), torch.tensor([[1, 0, 1, 0]])
>>> manyhot.zlpr_loss(logits, targets)
tensor(0.5775)
>>> manyhot.decide(logits)
tensor([[1, 0, 1, 0]])
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manyhot.calibration import Calibration, fit_calibration, proba
    from manyhot.collation import collate
    from manyhot.decisions import decide, top_k
    from manyhot.entropy_invariant import (
        entropy_invariant_attention,
        entropy_invariant_softmax,
        log_entropy_invariant_softmax,
    )
    from manyhot.heads.boundary_tagger import BoundaryTagger
    from manyhot.heads.cascade_tagger import CascadeTagger
    from manyhot.heads.reachable import ReachableHead
    from manyhot.heads.relation_pointer import RelationPointer
    from manyhot.heads.rotary import rotary
    from manyhot.heads.span_pointer import EfficientSpanPointer, SpanPointer
    from manyhot.label_smoothing import smooth_labels
    from manyhot.labels import (
        CardinalityRange,
        cardinality_range,
        label_counts,
        label_prior,
        label_propensity,
    )
    from manyhot.linear_loss import (
        LinearZLPRLoss,
        linear_bce_loss,
        linear_pairwise_loss,
        linear_single_log_loss,
        linear_zlpr_loss,
    )
    from manyhot.logsumexp import signed_logsumexp
    from manyhot.losses.baselines import (
        AsymmetricLoss,
        BCELoss,
        FocalLoss,
        TverskyLoss,
        asymmetric_loss,
        bce_loss,
        focal_loss,
        tversky_loss,
    )
    from manyhot.losses.divergence import zlpr_divergence
    from manyhot.losses.margin import (
        LogitAdjustedLoss,
        MarginSoftmaxLoss,
        adjust_logits,
        logit_adjusted_loss,
        margin_softmax_loss,
    )
    from manyhot.losses.multiway import MultiwayLoss, multiway_loss
    from manyhot.losses.perturbed import ExactLoss, Perturbed, exact_loss
    from manyhot.losses.smooth import (
        FWeightedBCELoss,
        SmoothAccuracyLoss,
        SmoothFLoss,
        f_weighted_bce_loss,
        smooth_accuracy_loss,
        smooth_f_loss,
    )
    from manyhot.losses.span import SpanLoss, span_loss
    from manyhot.losses.subset import Subset, SubsetLoss, subset_loss
    from manyhot.losses.two_way import TwoWayLoss, two_way_loss
    from manyhot.losses.zlpr import PairwiseLoss, SingleLogLoss, ZLPRLoss, pairwise_loss, single_log_loss, zlpr_loss
    from manyhot.matmulexp import log_matmul_exp
    from manyhot.metrics import multiclass_metrics, multilabel_metrics
    from manyhot.metrics_of_probs import calibration_metrics
    from manyhot.metrics_of_spans import SpanError, span_errors, span_metrics
    from manyhot.metrics_of_triples import triple_metrics
    from manyhot.offset import Decision, fit_decision
    from manyhot.promises import PrecisionDecision
    from manyhot.rankings import top_k_metrics
    from manyhot.reach import Reach, reachable_classes, reachable_sets
    from manyhot.span_decisions import decide_boundaries, decide_spans
    from manyhot.span_scores import SpanScores
    from manyhot.spans import Span, SpanTargets, span_mask, span_share
    from manyhot.split import stratified_split
    from manyhot.symmetric import inclusion_probabilities, log_elementary_symmetric
    from manyhot.targets import IndexTargets
    from manyhot.toolkit.runs.predict import Run
    from manyhot.toolkit.runs.saved_run import load_run
    from manyhot.toolkit.spans.predict import SpanRun
    from manyhot.toolkit.spans.relation_run import RelationRun
    from manyhot.triples import Triple, decide_objects, decide_triples, triple_targets
    from manyhot.updates import AdafactorUpdate, SGDUpdate
    from manyhot.validation import validate

__all__ = [
    "AdafactorUpdate",
    "AsymmetricLoss",
    "BCELoss",
    "BoundaryTagger",
    "Calibration",
    "CardinalityRange",
    "CascadeTagger",
    "Decision",
    "EfficientSpanPointer",
    "ExactLoss",
    "FWeightedBCELoss",
    "FocalLoss",
    "IndexTargets",
    "LinearZLPRLoss",
    "LogitAdjustedLoss",
    "MarginSoftmaxLoss",
    "MultiwayLoss",
    "PairwiseLoss",
    "Perturbed",
    "PrecisionDecision",
    "Reach",
    "ReachableHead",
    "RelationPointer",
    "RelationRun",
    "Run",
    "SGDUpdate",
    "SingleLogLoss",
    "SmoothAccuracyLoss",
    "SmoothFLoss",
    "Span",
    "SpanError",
    "SpanLoss",
    "SpanPointer",
    "SpanRun",
    "SpanScores",
    "SpanTargets",
    "Subset",
    "SubsetLoss",
    "Triple",
    "TverskyLoss",
    "TwoWayLoss",
    "ZLPRLoss",
    "adjust_logits",
    "asymmetric_loss",
    "bce_loss",
    "calibration_metrics",
    "cardinality_range",
    "collate",
    "decide",
    "decide_boundaries",
    "decide_objects",
    "decide_spans",
    "decide_triples",
    "entropy_invariant_attention",
    "entropy_invariant_softmax",
    "exact_loss",
    "f_weighted_bce_loss",
    "fit_calibration",
    "fit_decision",
    "focal_loss",
    "inclusion_probabilities",
    "label_counts",
    "label_prior",
    "label_propensity",
    "linear_bce_loss",
    "linear_pairwise_loss",
    "linear_single_log_loss",
    "linear_zlpr_loss",
    "load_run",
    "log_elementary_symmetric",
    "log_entropy_invariant_softmax",
    "log_matmul_exp",
    "logit_adjusted_loss",
    "margin_softmax_loss",
    "multiclass_metrics",
    "multilabel_metrics",
    "multiway_loss",
    "pairwise_loss",
    "proba",
    "reachable_classes",
    "reachable_sets",
    "rotary",
    "signed_logsumexp",
    "single_log_loss",
    "smooth_accuracy_loss",
    "smooth_f_loss",
    "smooth_labels",
    "span_errors",
    "span_loss",
    "span_mask",
    "span_metrics",
    "span_share",
    "stratified_split",
    "subset_loss",
    "top_k",
    "top_k_metrics",
    "triple_metrics",
    "triple_targets",
    "tversky_loss",
    "two_way_loss",
    "validate",
    "zlpr_divergence",
    "zlpr_loss",
]

__version__ = "0.1.0"

# Where each public name lives. Nothing is imported before it is used, so that `manyhot --help` needs no torch.
_HOME = {
    "calibration": ("Calibration", "fit_calibration", "proba"),
    "collation": ("collate",),
    "decisions": ("decide", "top_k"),
    "offset": ("Decision", "fit_decision"),
    "promises": ("PrecisionDecision",),
    "heads.boundary_tagger": ("BoundaryTagger",),
    "heads.cascade_tagger": ("CascadeTagger",),
    "heads.relation_pointer": ("RelationPointer",),
    "heads.rotary": ("rotary",),
    "heads.span_pointer": ("EfficientSpanPointer", "SpanPointer"),
    "entropy_invariant": (
        "entropy_invariant_attention",
        "entropy_invariant_softmax",
        "log_entropy_invariant_softmax",
    ),
    "heads.reachable": ("ReachableHead",),
    "labels": ("CardinalityRange", "cardinality_range", "label_counts", "label_prior", "label_propensity"),
    "linear_loss": (
        "LinearZLPRLoss",
        "linear_bce_loss",
        "linear_pairwise_loss",
        "linear_single_log_loss",
        "linear_zlpr_loss",
    ),
    "logsumexp": ("signed_logsumexp",),
    "losses.baselines": (
        "AsymmetricLoss",
        "BCELoss",
        "FocalLoss",
        "TverskyLoss",
        "asymmetric_loss",
        "bce_loss",
        "focal_loss",
        "tversky_loss",
    ),
    "losses.divergence": ("zlpr_divergence",),
    "losses.margin": (
        "LogitAdjustedLoss",
        "MarginSoftmaxLoss",
        "adjust_logits",
        "logit_adjusted_loss",
        "margin_softmax_loss",
    ),
    "losses.multiway": ("MultiwayLoss", "multiway_loss"),
    "losses.perturbed": ("ExactLoss", "Perturbed", "exact_loss"),
    "losses.smooth": (
        "FWeightedBCELoss",
        "SmoothAccuracyLoss",
        "SmoothFLoss",
        "f_weighted_bce_loss",
        "smooth_accuracy_loss",
        "smooth_f_loss",
    ),
    "losses.span": ("SpanLoss", "span_loss"),
    "losses.subset": ("Subset", "SubsetLoss", "subset_loss"),
    "losses.two_way": ("TwoWayLoss", "two_way_loss"),
    "losses.zlpr": ("PairwiseLoss", "SingleLogLoss", "ZLPRLoss", "pairwise_loss", "single_log_loss", "zlpr_loss"),
    "matmulexp": ("log_matmul_exp",),
    "metrics": ("multiclass_metrics", "multilabel_metrics"),
    "metrics_of_probs": ("calibration_metrics",),
    "metrics_of_spans": ("SpanError", "span_errors", "span_metrics"),
    "metrics_of_triples": ("triple_metrics",),
    "span_decisions": ("decide_boundaries", "decide_spans"),
    "span_scores": ("SpanScores",),
    "spans": ("Span", "SpanTargets", "span_mask", "span_share"),
    "reach": ("Reach", "reachable_classes", "reachable_sets"),
    "split": ("stratified_split",),
    "symmetric": ("inclusion_probabilities", "log_elementary_symmetric"),
    "targets": ("IndexTargets",),
    "label_smoothing": ("smooth_labels",),
    "toolkit.runs.predict": ("Run",),
    "toolkit.runs.saved_run": ("load_run",),
    "toolkit.spans.predict": ("SpanRun",),
    "toolkit.spans.relation_run": ("RelationRun",),
    "triples": ("Triple", "decide_objects", "decide_triples", "triple_targets"),
    "rankings": ("top_k_metrics",),
    "updates": ("AdafactorUpdate", "SGDUpdate"),
    "validation": ("validate",),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'manyhot' has no attribute {name!r}")
    try:
        module = import_module(f"manyhot.{_MODULE[name]}")
    except ModuleNotFoundError as error:
        if _MODULE[name].startswith("toolkit"):
            raise ImportError(f"manyhot.{name} needs {error.name}: pip install 'manyhot[toolkit]'") from error
        raise
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
