"""Helpers that know nothing of signals: files, threads, random streams, checks of parameters."""
