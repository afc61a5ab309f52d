"""Faces in pictures: `detect` finds them, `align` cuts them out upright and puts them back, `enhance` restores them,
`track` keeps them steady from frame to frame, `draw` shows what was found.
"""
