"""Texts: what may change in them one word or one embedding at a time, and classifiers that read them."""
