"""Connectors in real engines; each folder is run with the Python of its engine."""
