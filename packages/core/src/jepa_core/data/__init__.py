"""Reading samples: a resumable order, a loader whose randomness ignores the worker count, and the quarantine."""
