"""Between gRPC and the service: who may call, what is logged, traced and counted, errors as statuses."""
