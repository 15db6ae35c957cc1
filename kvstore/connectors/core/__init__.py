"""What all connectors share: names, transfers that neither wait nor fail, the cost gate, statistics, quiet logging.

For the inside of engines: nothing here raises once it is set up, and nothing waits longer than its caller says.
"""

from kvstore.connectors.core.cost_gate import CostGate
from kvstore.connectors.core.engine_store import Done, EngineStore
from kvstore.connectors.core.quiet_log import QuietLog
from kvstore.connectors.core.salt import join_salts
from kvstore.connectors.core.setup import load_config, read_tenant_secret
from kvstore.connectors.core.statistics import Statistics

__all__ = [
    "CostGate",
    "Done",
    "EngineStore",
    "QuietLog",
    "Statistics",
    "join_salts",
    "load_config",
    "read_tenant_secret",
]
