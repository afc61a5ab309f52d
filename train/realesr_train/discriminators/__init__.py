"""Discriminators: pictures -> logits. Reading order: spectral.py, unet.py, patch.py, vgg.py.

Each refuses pictures of a size that it cannot judge with a ValueError. Key names are those of the published files.
"""
