"""Hard samples through every export and back through every reader that is installed."""
