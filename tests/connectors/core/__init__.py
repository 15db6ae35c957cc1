"""What all connectors share, tested without an engine."""
