"""The connector for TensorRT-LLM, with a module that stands for the engine, which cannot be installed here."""
