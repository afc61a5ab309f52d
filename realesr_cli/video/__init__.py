"""Films.

`colour`: YUV <-> RGB, with `chroma` for its planes, or by `swscale`; `frames`: PyAV frames <-> planes; `tags`: what a
film says about its colours; `reuse`: what need not be computed again.
"""
