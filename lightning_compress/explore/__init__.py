"""The search for the smallest package that still does the job."""
