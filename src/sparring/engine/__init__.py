"""The run on real hardware: data on the device, precision, checkpoints, exact resume, progress, the record."""
