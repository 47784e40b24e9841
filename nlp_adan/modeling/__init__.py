"""Models of transformers that compute less for the same result: only what their head looks at."""
