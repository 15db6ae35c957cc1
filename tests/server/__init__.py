"""A node as its operators and clients meet it."""
