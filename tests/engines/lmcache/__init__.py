"""The adapters in LMCache; run with LMCache's own Python."""
