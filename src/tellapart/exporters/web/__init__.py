"""Export to a web app."""
