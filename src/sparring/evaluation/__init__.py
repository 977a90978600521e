"""The evaluation: attacks that are not believed, a worst case per example, intervals, calibration and checks."""
