"""What every connector keeps, and the connectors that need no engine of their own."""
