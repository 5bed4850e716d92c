"""Files that are whole or not there: run folders, and what an interrupted training goes on from."""
