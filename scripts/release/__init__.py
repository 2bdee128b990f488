"""What is said about an image before it is published: its parts, and which of them have known vulnerabilities."""
