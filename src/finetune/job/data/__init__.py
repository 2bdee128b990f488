"""The data of a job: channels, streams and the batches made of them."""
