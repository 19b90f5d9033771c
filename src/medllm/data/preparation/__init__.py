"""Raw conversations become ones to train on: cleaned, de-identified, de-duplicated, checked; every step counted."""
