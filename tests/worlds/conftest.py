"""The clips and classifiers of the evaluator's tests, for the tests of the world that they come from."""

from ..evaluation.conftest import classifiers, real, rendered

__all__ = ["classifiers", "real", "rendered"]
