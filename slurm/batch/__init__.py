"""What is submitted: a job's options, checked, and the text of its batch script."""
