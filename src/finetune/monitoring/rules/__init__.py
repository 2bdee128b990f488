"""Rules that monitor a job: each checks inexpensive numbers and reports an observation, a place and a next step."""
