"""Fine-tuning of many networks, each by itself, and all of them in one table."""
