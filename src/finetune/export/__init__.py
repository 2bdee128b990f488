"""The model that the job leaves behind, and the proof that it answers as the network did."""
