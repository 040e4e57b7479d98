"""Evaluation of classifiers on labelled images: metrics, comparison, error analysis and the report."""
