"""Captured images, which people label, and drift detection."""
