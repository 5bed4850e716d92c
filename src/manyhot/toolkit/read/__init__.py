"""Files to rows with label sets: what a file holds, what its cells mean, which column plays which part."""
