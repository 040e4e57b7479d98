"""A server for exported classifiers: HTTP in front, processes that compute behind it, bounds on everything between."""
