"""Which answers a worker takes, when, and how it keeps them: slots, shares, leases, trials."""
