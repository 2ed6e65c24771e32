"""What people look at: tables and plots of finished experiments. Nothing is computed here."""
