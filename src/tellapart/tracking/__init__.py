"""Where the course of a run is told: its own history.jsonl, and wherever else the user looks."""
