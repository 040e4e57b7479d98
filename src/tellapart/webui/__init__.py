"""The page that the exported app and the server share."""
