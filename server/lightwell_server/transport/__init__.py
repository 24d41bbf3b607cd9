"""Between gRPC and the service: access, logs, traces, metrics, and errors as statuses."""
