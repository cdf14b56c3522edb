"""The checks, each with the causes that it can name; importing this package declares all."""
