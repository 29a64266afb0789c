"""What operators see and do, on a real database, without the command line or the console around it."""
