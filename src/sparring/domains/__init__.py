"""One package a field: its data, its models, its threat models. A domain never imports another."""
