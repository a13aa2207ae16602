"""Shared helpers: validation, files, threads, random streams, class priors, deprecations."""
