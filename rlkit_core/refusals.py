"""Refusals: what would make a comparison of runs mislead, found before anything is computed."""
