"""Benchmarks of speed and accuracy; each file without a leading underscore is a program."""
