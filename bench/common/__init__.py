"""What several benchmarks share: tables, goals, networks, processes, figures."""
