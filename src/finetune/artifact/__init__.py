"""The model that the job leaves behind, and the proof that it answers as it was evaluated."""
