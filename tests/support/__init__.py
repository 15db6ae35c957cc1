"""What the contract and fault suites share: blocks that tell their name, processes seen from outside, clients."""
