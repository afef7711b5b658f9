"""A report to look at: one HTML page of what a cache holds, and how it came to be."""
