"""The worker processes, which decode images and run inference, and the pool that supervises them."""
