"""Treatments: a closed catalogue of typed actions. This package proposes; nothing in it writes or runs anything."""
