"""What /metrics shows: counters, gauges, and signs of what the service is asked."""
