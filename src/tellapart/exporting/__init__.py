"""`Classifier` -> one file that answers the same elsewhere, compared with the original before it is handed over."""
