"""Diagnosis from plain numbers: the trend of a loss, stability limits, the verdict on where training is."""
