"""How good a picture is, alone or beside the one it should be.

In reading order: psnr_ssim.py (distance to a reference), niqe.py (naturalness without one).
"""
