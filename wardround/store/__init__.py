"""What is kept between runs: incidents with their history, and rounds with their documents. SQLite in one file."""
