"""A reporter that tests can ask what was said."""

from typing import Any


class Events:
    """A reporter that remembers: events.of("warning") is the list of what was said."""

    def __init__(self) -> None:
        self.all: list[dict[str, Any]] = []

    def emit(self, event: str, **fields: Any) -> None:
        self.all.append({"event": event, **fields})

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for fields in self.all if fields["event"] == event]
