"""Comparisons with named rivals; each file but those with an underscore is a program."""
