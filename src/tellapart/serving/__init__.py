"""An HTTP server for exported classifiers: HTTP in one process, inference in worker processes, limits on both."""
