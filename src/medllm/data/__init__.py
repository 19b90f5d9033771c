"""Rows become conversations, conversations become token rows, token rows become batches."""
