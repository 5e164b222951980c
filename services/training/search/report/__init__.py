"""A search's report: what it tried, what matters and where it is right, as JSON and as one HTML page."""
