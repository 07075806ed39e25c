"""The way to a language model and back: a masked brief out, a bounded answer in, every claim checked."""
