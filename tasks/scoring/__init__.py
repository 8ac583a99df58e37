"""Every customer by the champion, and what it writes."""
