"""Small worlds with ground truth, seeded and fast, and what can be changed in them."""
