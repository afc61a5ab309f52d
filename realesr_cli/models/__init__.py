"""Networks and weights files.

Reading order: architectures.py (what can be loaded), compact.py, rrdb.py, srresnet.py, srcnn.py (the networks),
mixed.py (their fast copies), reading.py and ncnn.py (file formats), export.py, graph.py, onnx_writer.py and
ncnn_writer.py (files for other programs).
"""
