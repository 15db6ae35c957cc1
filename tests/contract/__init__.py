"""What every store promises, whatever is behind it: one class of tests, run on each store, lane and client."""
