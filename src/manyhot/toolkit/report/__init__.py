"""What a report says, as data, and one page of HTML from those data alone."""
