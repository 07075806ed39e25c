"""The domain types: frozen dataclasses inside, pydantic only in `document`, the edge. Time is UTC."""
