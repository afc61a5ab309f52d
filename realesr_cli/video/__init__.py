"""Films: probe.py, reader.py, convert.py, encoding.py, writer.py, resume.py, streams.py, check.py, upscale.py."""
