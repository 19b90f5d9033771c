"""What a tuned model is worth: suites of items, each asked of the base and of the tuned model."""
