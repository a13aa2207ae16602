"""Networks, their training and the estimators around them; only this package imports torch."""
