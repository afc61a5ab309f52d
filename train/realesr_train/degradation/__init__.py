"""Synthetic degradation: from a clean picture to a low-resolution one.

Files in reading order:

* `draws.py`: every random choice of a sample, as plain host tensors; `replay.py`: the same as text and back
* `counter.py`: random numbers addressed by (key, position)
* `canvas.py`: batches of images of different sizes in one tensor
* `kernels.py`: blur kernels
* `filters.py`: blur and unsharp masking
* `resize.py`: area, bilinear and bicubic resampling; MATLAB-like bicubic
* `noise.py`: Gaussian and Poisson noise
* `jpeg.py`: JPEG compression
* `second_order.py`: the chain of all of them
"""
