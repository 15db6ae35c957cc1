"""One module an engine. Importing this package imports no engine; `kvstore.connectors.transformers` imports its own."""
