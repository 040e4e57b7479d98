"""What a classifier says of its own answers, learnt on validation: how sure, which others, and how familiar."""
