"""Averages of the weights of any width, made after training from snapshots of two (Karras et al. 2024, section 3)."""
