"""The trained classifier: network, preprocessing and calibration in one file. Requires torch."""
