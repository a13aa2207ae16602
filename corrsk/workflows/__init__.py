"""Workflows: experiments from a configuration to a folder of results."""
