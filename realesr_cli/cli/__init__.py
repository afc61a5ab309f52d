"""The command line. Reading order: main.py, run.py, flags.py, then one file for each command.

Nothing here imports torch, numpy, cv2, av or requests at module level: `realesr --help` must answer at once.
"""
