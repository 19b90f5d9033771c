"""Runs that are killed, stopped, starved of disk and damaged, and what is left of them."""
