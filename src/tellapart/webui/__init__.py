"""The web page for classifying images, shared by the web app and the server."""
