"""Data on their way into training.

In reading order: pool.py (mixes the pairs of past batches into new ones).
"""
