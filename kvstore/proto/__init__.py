"""Messages of the control plane, generated from proto/ by proto/generate.py."""
