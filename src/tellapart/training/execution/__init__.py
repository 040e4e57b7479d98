"""How training runs on a machine, or several."""
