"""Comparing embeddings across modalities: measures, each with a null and an interval, as functions and as a report.

``compare(a, b)`` answers for two tables; the measures are plain functions of two arrays whose row i is one sample.
"""

from jepa_core.compare.canonical import SaturatedError, canonical_correlations, cca, pwcca, svcca
from jepa_core.compare.cka import linear_cka, linear_cka_biased, minibatch_cka, rbf_cka
from jepa_core.compare.inputs import Features, load
from jepa_core.compare.lookup import retrieval
from jepa_core.compare.neighbours import cknna, jaccard_knn, mutual_knn, mutual_knn_centred
from jepa_core.compare.options import Options
from jepa_core.compare.pairing import UnpairedError
from jepa_core.compare.predictivity import ridge_r2
from jepa_core.compare.rdm import class_rsa, rsa
from jepa_core.compare.registry import MEASURES
from jepa_core.compare.result import Comparison
from jepa_core.compare.rotation import procrustes, procrustes_angle
from jepa_core.compare.run import compare
from jepa_core.compare.scores import LayerMap, Score
from jepa_core.compare.spectra import participation_ratio, rankme, spectral_distance
from jepa_core.compare.streaming import StreamingCKA

__all__ = [
    "MEASURES",
    "Comparison",
    "Features",
    "LayerMap",
    "Options",
    "SaturatedError",
    "Score",
    "StreamingCKA",
    "UnpairedError",
    "canonical_correlations",
    "cca",
    "cknna",
    "class_rsa",
    "compare",
    "jaccard_knn",
    "linear_cka",
    "linear_cka_biased",
    "load",
    "minibatch_cka",
    "mutual_knn",
    "mutual_knn_centred",
    "participation_ratio",
    "procrustes",
    "procrustes_angle",
    "pwcca",
    "rankme",
    "rbf_cka",
    "retrieval",
    "ridge_r2",
    "rsa",
    "spectral_distance",
    "svcca",
]
