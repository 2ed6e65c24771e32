"""Run directories: made under another name, renamed when they are whole; read back."""
