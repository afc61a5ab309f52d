"""Data on their way into training.

In reading order: pool.py (mixes the pairs of past batches into new ones), degrade.py (picture files to degraded or
bicubically reduced ones, and a contact sheet of degradations).
"""
