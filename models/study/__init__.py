"""What history says: how models age, and which features pay."""
