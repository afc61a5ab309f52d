"""Films, from the file to the enlarged file.

`jobs`: which film becomes which, and what else can be made of one; `upscale`: the run of one; `film`: what is decided
before it; `stream`: frames through the network; `probe`, `reader`: what a film holds, and its frames;
`tags`, `colour`, `chroma`, `frames`, `swscale`, `convert`: YUV <-> RGB; `reuse`: what need not be computed again;
`encoding`, `writer`, `resume`: pieces of the result that survive a kill; `streams`, `mux`, `transcode`: the other
streams, and the result; `check`: the result against its source.
"""
