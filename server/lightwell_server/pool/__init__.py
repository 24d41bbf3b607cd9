"""Worker processes: each owns a device, and requests survive the crash of a worker."""
