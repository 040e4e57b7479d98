"""The HTTP side of the server: connections, routes, response models and pages."""
