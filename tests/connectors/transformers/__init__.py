"""The transformers connector under the contract of all connectors."""
