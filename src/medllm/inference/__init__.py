"""Answers from a base or tuned model."""
