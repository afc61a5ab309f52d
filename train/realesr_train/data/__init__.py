"""Data on their way into training.

In reading order: folder.py (which pictures there are, and their pixels), packed.py (many pictures in one file),
sampler.py (which samples a step has, and which picture a sample shows), source.py (crops of pictures and pairs by
number), loading.py (batches, made ahead by threads), pool.py (mixes the pairs of past batches into new ones),
prepare.py (makes packs, checks data sets), degrade.py (picture files to degraded or bicubically reduced ones, and a
contact sheet of degradations).
"""
