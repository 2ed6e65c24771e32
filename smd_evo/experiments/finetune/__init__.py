"""Fine-tuning by a single generation of children, beside dense controls."""
