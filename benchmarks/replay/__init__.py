"""Eviction policies judged by replaying traces of requests: the node's real policy code, blocks without bytes."""
