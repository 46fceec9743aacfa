"""What is looked at in a dataset before it is trained on; each check is a function that gives findings and numbers."""
