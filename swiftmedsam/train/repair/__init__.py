"""Short trainings of single parts of a shortened network, on what the teacher computes."""
