"""What a job or a person uses: push, load, keep."""
