"""What a job may ask for; everything is checked here, before any data is read."""
