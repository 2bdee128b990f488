"""The whole job, from reading the request to writing the report; the only package that uses every stage."""
