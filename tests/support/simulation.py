"""Simulated predictions for the tests of metrics."""

import numpy as np
from hypothesis import strategies as st


@st.composite
def predictions(draw):
    """Draw probabilities (N, K) and labels (N,), with K of 2 to 6; some classes may have no labels."""
    count, rows, seed = draw(st.integers(2, 6)), draw(st.integers(1, 60)), draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    present = random.permutation(count)[: draw(st.integers(1, count))]
    return random.dirichlet(np.full(count, 0.7), rows), random.choice(present, rows)
