"""Real processes, real faults: killed, frozen, flooded with garbage, filled up, corrupted."""
