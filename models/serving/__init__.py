"""What ships in a Bento: the service and all it imports, and no gate."""
