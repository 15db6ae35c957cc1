"""Runs vLLM's own tests of its offloading connector on ours, as a plugin of pytest in the root of vLLM's source.

    PYTHONPATH=THIS_FOLDER:. python -m pytest -p point_at_ours tests/v1/kv_connector/unit/offloading_connector

Their configurations are refused by our constructor, on purpose; everything else is ours.
"""

from __future__ import annotations

from vllm.distributed.kv_transfer.kv_connector.v1 import offloading_connector as theirs

from kvstore.connectors.vllm import KVStoreConnector


class _Ours(KVStoreConnector):
    __init__ = theirs.OffloadingConnector.__init__


theirs.OffloadingConnector = _Ours
