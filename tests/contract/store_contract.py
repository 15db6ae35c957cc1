"""The whole contract, for a store or a lane to inherit."""

from tests.contract.arguments import Arguments
from tests.contract.keeping import Keeping
from tests.contract.life_of_blocks import LifeOfBlocks
from tests.contract.round_trips import RoundTrips
from tests.contract.sharing import Borrowing, Concurrency, Waiting

__all__ = ["StoreContract"]


class StoreContract(RoundTrips, Arguments, LifeOfBlocks, Keeping, Borrowing, Waiting, Concurrency):
    """Every promise of a store. A new one is tested by inheriting this and saying what `store` and `second` are."""
