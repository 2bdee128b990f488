"""What frozen layers give for each record: computed once, kept, and handed out in batches."""
