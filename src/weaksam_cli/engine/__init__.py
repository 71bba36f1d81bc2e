"""Steps with an identity, whether they are fresh, and running them."""
