"""What sequences keep on a stage, and memory that comes back."""
