"""Degradation of clean pictures into training inputs."""
