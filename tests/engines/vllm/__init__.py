"""Tests of the vLLM connector, run with the Python of an environment that has vLLM."""
