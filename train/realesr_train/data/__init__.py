"""Pictures for training.

Files in reading order:

* `degrade.py`: picture files to degraded or bicubically reduced ones, and a contact sheet of degradations
"""
