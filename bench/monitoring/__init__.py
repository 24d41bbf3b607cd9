"""The parts of `bench.observe`: Prometheus and Alertmanager, the chart's rules and dashboard, and a load to look at."""
