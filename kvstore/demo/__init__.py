"""The main job: a node and two engines in three processes, and a KV cache that travels between them.

`prompt` is the text and `model` the small Llama; `engine` is an engine process, which speaks the lines of `messages`;
`processes` starts and ends children; `run` tells the story, `verdict` judges it, `stages` and `report` show it.
"""
