"""How training runs on one machine, or on several."""
