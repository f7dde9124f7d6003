"""Long lists from the registry, a page at a time: 100,000 rows scroll like ten."""
