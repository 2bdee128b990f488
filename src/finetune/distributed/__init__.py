"""Training on several devices: processes, virtual devices, and sums in a fixed order."""
