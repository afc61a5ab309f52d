"""Training side of realesr: degradation pipeline, trainer and recipes (none of it here yet; see CHANGELOG.md)."""
