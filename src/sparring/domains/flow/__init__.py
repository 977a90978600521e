"""Network flows: tables of mixed columns, what may change in them, and detectors that read them."""
