"""Networks and weights files.

Reading order: architectures.py (what can be loaded), compact.py, rrdb.py, srresnet.py, srcnn.py (the networks),
mixed.py (their fast copies), reading.py and ncnn.py (file formats).
"""
