"""The server compared with AWS's model server and with bare calls of the handler, and its behaviour under overload."""
