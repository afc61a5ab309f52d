"""Training losses. Reading order: pixel.py, adversarial.py, perceptual.py.

All give float32 scalars whatever the precision of their inputs; none applies a loss weight.
"""
