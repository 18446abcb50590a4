"""Tables from a run's records."""
