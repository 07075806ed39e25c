"""What every part of Wardround shares: domain types, settings, errors, store, logging, redaction."""

__version__ = "0.1.0"
