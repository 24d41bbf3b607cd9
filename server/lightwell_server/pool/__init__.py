"""Worker processes: each owns a device, and none of their deaths is a caller's problem."""
