"""Communication between the hosts of a job: who takes part, stop requests, the first failure, and the common end."""
